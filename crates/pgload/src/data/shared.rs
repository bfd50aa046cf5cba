//! The tables that all shards share.

use super::{
    EMPLOYEES, FIRST_DAY, Generator, LAST_DAY, LOCATIONS, Product, Scale,
    copy::{Rows, day},
    purpose,
};
use crate::rng::Rng;

const CITIES: [(&str, &str, &str, &str); 16] = [
    ("BER", "Berlin", "DE", "Europe/Berlin"),
    ("WAW", "Warsaw", "PL", "Europe/Warsaw"),
    ("LYS", "Lyon", "FR", "Europe/Paris"),
    ("RTM", "Rotterdam", "NL", "Europe/Amsterdam"),
    ("MAD", "Madrid", "ES", "Europe/Madrid"),
    ("PRG", "Prague", "CZ", "Europe/Prague"),
    ("HEL", "Helsinki", "FI", "Europe/Helsinki"),
    ("MIL", "Milan", "IT", "Europe/Rome"),
    ("IST", "Istanbul", "TR", "Europe/Istanbul"),
    ("ALA", "Almaty", "KZ", "Asia/Almaty"),
    ("LIS", "Lisbon", "PT", "Europe/Lisbon"),
    ("VIE", "Vienna", "AT", "Europe/Vienna"),
    ("OSL", "Oslo", "NO", "Europe/Oslo"),
    ("DUB", "Dublin", "IE", "Europe/Dublin"),
    ("BUD", "Budapest", "HU", "Europe/Budapest"),
    ("ATH", "Athens", "GR", "Europe/Athens"),
];
/// Kinds of zones, and how many of a shard's locations each has.
pub(super) const ZONES: [(&str, i32); 6] =
    [("receiving", 4), ("bulk", 56), ("picking", 48), ("cold", 12), ("packing", 4), ("shipping", 4)];
const TOP: [&str; 6] = ["Food", "Home", "Tools", "Electronics", "Clothing", "Office"];
const MIDDLE: [&str; 4] = ["Basics", "Premium", "Seasonal", "Professional"];
const LEAF: [&str; 3] = ["Small", "Medium", "Large"];
const ADJECTIVES: [&str; 16] = [
    "Blue", "Solid", "Light", "Classic", "Folding", "Cordless", "Organic", "Compact", "Heavy", "Quiet",
    "Bright", "Woven", "Steel", "Oak", "Travel", "Double",
];
const NOUNS: [&str; 24] = [
    "drill", "lamp", "kettle", "jacket", "chair", "notebook", "cheese", "pasta", "router", "cable", "hammer",
    "shirt", "desk", "stapler", "speaker", "pan", "blanket", "coffee", "yoghurt", "screen", "ladder",
    "boots", "folder", "shelf",
];
const FIRST: [&str; 20] = [
    "Anna", "Boris", "Clara", "David", "Elif", "Farid", "Greta", "Hugo", "Irina", "Jan", "Katya", "Luis",
    "Maria", "Nils", "Olga", "Pavel", "Rosa", "Sven", "Tomas", "Vera",
];
const LAST: [&str; 20] = [
    "Novak",
    "Schmidt",
    "Garcia",
    "Ivanova",
    "Rossi",
    "Dubois",
    "Kowalski",
    "Yilmaz",
    "Hansen",
    "Silva",
    "Petrov",
    "Weber",
    "Moreau",
    "Nowak",
    "Lindqvist",
    "Horvat",
    "Papadakis",
    "Murphy",
    "Bianchi",
    "Sokolov",
];
const COLOURS: [&str; 8] = ["black", "white", "red", "green", "blue", "grey", "yellow", "brown"];
const MATERIALS: [&str; 6] = ["steel", "wood", "plastic", "cotton", "glass", "paper"];

/// All rows, in the order of [`super::SHARED`].
pub(super) fn tables(generator: &Generator) -> Vec<Rows> {
    let (seed, scale) = (generator.seed, generator.scale);
    let (warehouse, zone) = warehouses(scale);
    vec![
        warehouse,
        zone,
        locations(generator),
        categories(),
        suppliers(seed, scale),
        products(generator),
        prices(generator),
        customers(generator),
        carriers(),
        employees(generator),
    ]
}

fn warehouses(scale: Scale) -> (Rows, Rows) {
    let (mut warehouse, mut zone) = (Rows::default(), Rows::default());
    for id in 1..=scale.warehouses() {
        let (code, city, country, timezone) = CITIES[(id - 1) as usize % CITIES.len()];
        warehouse
            .row(7)
            .int4(id)
            .text(&format!("{code}{id}"))
            .text(&format!("{city} distribution centre {id}"));
        warehouse.text(city).text(country).text(timezone).date(day(2008 + id % 14, 1 + id % 12, 1));
        for (index, (kind, _)) in ZONES.iter().enumerate() {
            zone.row(5).int4((id - 1) * ZONES.len() as i32 + index as i32 + 1).int4(id).text(kind);
            zone.text(&format!("{city} {kind}"));
            if *kind == "cold" {
                zone.numeric(50, 1)
            } else {
                zone.null()
            };
        }
    }
    (warehouse, zone)
}

fn locations(generator: &Generator) -> Rows {
    let mut rows = Rows::default();
    for shard in 0..generator.scale.shards {
        let warehouse = generator.warehouse(shard);
        let mut id = shard * LOCATIONS;
        for (index, (kind, count)) in ZONES.iter().enumerate() {
            for place in 0..*count {
                id += 1;
                let mut rng = Rng::new(generator.seed, purpose::LOCATION, id as u64);
                let (aisle, rack, level) = (shard + 1, place / 4 + 1, place % 4);
                rows.row(8).int4(id).int4((warehouse - 1) * ZONES.len() as i32 + index as i32 + 1);
                rows.text(&format!("{}-{aisle:03}-{rack:02}-{level}", kind[..2].to_uppercase()));
                rows.int2(aisle as i16).int2(rack as i16).int2(level as i16);
                rows.int4(if *kind == "bulk" { 1_000 } else { 250 } * rng.range(1, 4) as i32);
                rows.bool(rng.percent(2) && matches!(*kind, "packing" | "shipping"));
            }
        }
    }
    rows
}

fn categories() -> Rows {
    let mut rows = Rows::default();
    let mut id = 0;
    for top in TOP {
        id += 1;
        let top_id = id;
        rows.row(4).int4(id).null().text(top).text(top);
        for middle in MIDDLE {
            id += 1;
            let middle_id = id;
            let path = format!("{top} / {middle}");
            rows.row(4).int4(id).int4(top_id).text(middle).text(&path);
            for leaf in LEAF {
                id += 1;
                rows.row(4).int4(id).int4(middle_id).text(leaf).text(&format!("{path} / {leaf}"));
            }
        }
    }
    rows
}

/// A leaf category by number: every fourth of the 16 ids below a top category is a middle one.
fn leaf(top: i32, leaf: i32) -> i32 {
    let (middle, small) = (leaf / 3, leaf % 3);
    top * (1 + MIDDLE.len() as i32 * 4) + 1 + middle * 4 + small + 2
}

fn suppliers(seed: u64, scale: Scale) -> Rows {
    let mut rows = Rows::default();
    for id in 1..=scale.suppliers() {
        let mut rng = Rng::new(seed, purpose::SUPPLIER, id as u64);
        let name = format!("{} & {} {id}", rng.one(&LAST), rng.one(&LAST));
        let rating = [5, 4, 4, 3, 3, 3, 2, 1][rng.below(8) as usize];
        rows.row(6).int4(id).text(&name).text(CITIES[rng.below(16) as usize].2).int2(rating);
        rows.int2(rng.range(2, 45) as i16).text(&format!("orders@supplier{id}.example"));
    }
    rows
}

/// What a shard needs to know about a product.
pub(super) fn product(seed: u64, scale: Scale, id: i32) -> Product {
    let mut rng = Rng::new(seed, purpose::PRODUCT, id as u64);
    // Many cheap things, few expensive ones.
    let price = 99 + rng.below(1_500) as i64 * (1 + rng.below(12) as i64) * (1 + rng.below(8) as i64) / 4;
    let food = (id % TOP.len() as i32) == 0;
    Product {
        supplier: rng.range(1, i64::from(scale.suppliers())) as i32,
        weight_g: 20 + rng.below(900) as i64 * (1 + rng.below(20) as i64),
        shelf_life_days: food.then(|| rng.range(14, 400) as i32),
        price,
        cost: price * rng.range(45, 85) / 100,
    }
}

fn products(generator: &Generator) -> Rows {
    let mut rows = Rows::default();
    for (index, product) in generator.products.iter().enumerate() {
        let id = index as i32 + 1;
        // Same stream as prices use is not needed: names and looks may be drawn apart.
        let mut rng = Rng::new(generator.seed, purpose::PRODUCT, id as u64 | 1 << 40);
        let top = id % TOP.len() as i32;
        let name = format!("{} {} {id}", rng.one(&ADJECTIVES), rng.one(&NOUNS));
        rows.row(13).int4(id).text(&format!("{}-{id:07}", TOP[top as usize][..2].to_uppercase())).text(&name);
        rows.int4(leaf(top, rng.below(12) as i32)).int4(product.supplier);
        rows.text(["piece", "piece", "piece", "box", "box", "pallet", "kg", "litre"][rng.below(8) as usize]);
        rows.int4(product.weight_g as i32).int4(rng.range(50, 90_000) as i32);
        match product.shelf_life_days {
            Some(days) => rows.int4(days),
            None => rows.null(),
        };
        rows.int4(rng.range(5, 120) as i32).bool(rng.below(100) < 96);
        rows.date(FIRST_DAY - rng.range(0, 1_500) as i32);
        rows.jsonb(&format!(
            r#"{{"colour": "{}", "material": "{}", "brand": "{}"}}"#,
            rng.one(&COLOURS),
            rng.one(&MATERIALS),
            rng.one(&LAST)
        ));
    }
    rows
}

/// One row on the first day and one at each change: a few products change often, most seldom.
fn prices(generator: &Generator) -> Rows {
    let mut rows = Rows::default();
    for (index, product) in generator.products.iter().enumerate() {
        let mut rng = Rng::new(generator.seed, purpose::PRICE, index as u64);
        let mut from = FIRST_DAY;
        let often = 10 + rng.below(25) as i64 * rng.below(16) as i64;
        while from <= LAST_DAY {
            let change = if from == FIRST_DAY { 100 } else { rng.range(85, 118) };
            rows.row(4).int4(index as i32 + 1).date(from);
            rows.hundredths((product.price * change / 100).max(product.cost)).hundredths(product.cost);
            from += rng.range(often / 2 + 1, often * 2 + 2) as i32;
        }
    }
    rows
}

fn customers(generator: &Generator) -> Rows {
    let mut rows = Rows::default();
    for id in 1..=generator.scale.customers() {
        let mut rng = Rng::new(generator.seed, purpose::CUSTOMER, id as u64);
        let kind = ["retail", "online", "online", "online", "wholesale"][rng.below(5) as usize];
        let city = CITIES[(rng.below(16) * rng.below(16) / 16) as usize];
        let name = if kind == "wholesale" {
            format!("{} Trading {id}", rng.one(&LAST))
        } else {
            format!("{} {}", rng.one(&FIRST), rng.one(&LAST))
        };
        let tier = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4][rng.below(10) as usize];
        rows.row(9).int4(id).text(&name).text(kind).int2(tier).text(city.1).text(city.2);
        rows.text(&format!("customer{id}@mail.example"));
        rows.hundredths(rng.range(1, 50) * 100_000 / i64::from(tier))
            .date(FIRST_DAY - rng.range(0, 2_000) as i32);
    }
    rows
}

/// Carriers, with their rates in hundredths a kilogram.
pub(super) const CARRIERS: [(&str, &str, i64); 8] = [
    ("Road Runner", "road", 45),
    ("Nordic Freight", "road", 38),
    ("Iron Way", "rail", 22),
    ("Blue Ocean", "sea", 11),
    ("Sky Parcel", "air", 310),
    ("City Bikes", "bike", 150),
    ("Continental", "road", 52),
    ("Express One", "air", 420),
];

fn carriers() -> Rows {
    let mut rows = Rows::default();
    for (id, (name, mode, rate)) in (1..).zip(CARRIERS) {
        rows.row(4).int4(id).text(name).text(mode).hundredths(rate);
    }
    rows
}

/// The first of each shard's employees is the manager of the others.
fn employees(generator: &Generator) -> Rows {
    let mut rows = Rows::default();
    for shard in 0..generator.scale.shards {
        let manager = shard * EMPLOYEES + 1;
        for id in manager..manager + EMPLOYEES {
            let mut rng = Rng::new(generator.seed, purpose::EMPLOYEE, id as u64);
            rows.row(7).int4(id).int4(generator.warehouse(shard));
            if id == manager {
                rows.null()
            } else {
                rows.int4(manager)
            };
            rows.text(&format!("{} {}", rng.one(&FIRST), rng.one(&LAST)));
            let jobs = ["picker", "picker", "picker", "packer", "packer", "receiver", "driver", "clerk"];
            let job = jobs[rng.below(8) as usize];
            rows.text(if id == manager { "manager" } else { job });
            let hired = FIRST_DAY - rng.range(30, 3_000) as i32;
            rows.date(hired);
            if id != manager && rng.percent(8) {
                rows.date(FIRST_DAY + rng.range(0, 700) as i32)
            } else {
                rows.null()
            };
        }
    }
    rows
}
