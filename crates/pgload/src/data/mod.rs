//! The data of a warehouse: the same seed and scale make the same bytes, on any machine and any number of threads.
//!
//! Data comes in parts that do not depend on each other: one with the tables that all share (products, customers, ...)
//! and, for each unit of scale, 16 shards. A shard is a simulation of one slice of one warehouse over two years: orders
//! come in, goods are bought when there are none left, put away, moved, picked and shipped. So all sums agree: stock is
//! the sum of movements, what is reserved is the sum of allocations, what was shipped was picked.

mod copy;
mod shard;
mod shared;

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::rng::{Ranks, Rng, Scatter};
use copy::{Rows, day, month};

/// Of the generator: other versions make other data.
pub const VERSION: i32 = 1;
/// Shards in a unit of scale.
pub const SHARDS_PER_SCALE: f64 = 16.0;
/// Locations of a shard.
pub const LOCATIONS: i32 = 128;
/// Sales orders of a shard.
pub const ORDERS: i64 = 3_000;
/// Lots that a shard may have at most; also those of its purchase orders.
pub const LOTS: i64 = 1 << 14;
/// Movements that a shard may have at most.
pub const MOVEMENTS: i64 = 1 << 16;
/// Employees of a shard.
pub const EMPLOYEES: i32 = 24;
/// The first day on which orders are placed, in days since 1970-01-01: 2024-01-01.
pub const FIRST_DAY: i32 = day(2024, 1, 1);
/// The last day: 2025-12-31.
pub const LAST_DAY: i32 = day(2025, 12, 31);

/// How much data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Number of shards, at least 1.
    pub shards: i32,
}

impl Scale {
    /// From the number people give; 1 is about 100 MB. Steps of 1/16.
    ///
    /// # Errors
    /// Outside of 1/16 to 1000.
    pub fn new(scale: f64) -> Result<Self, String> {
        let shards = (scale * SHARDS_PER_SCALE).round();
        if !(1.0..=16_000.0).contains(&shards) {
            return Err(format!("scale {scale} is not in the range 0.0625 to 1000"));
        }
        Ok(Self { shards: shards as i32 })
    }

    /// The number people give.
    pub fn factor(self) -> f64 {
        f64::from(self.shards) / SHARDS_PER_SCALE
    }

    /// Number of warehouses.
    pub fn warehouses(self) -> i32 {
        (self.shards / 2).max(1)
    }

    /// Number of products.
    pub fn products(self) -> i32 {
        300 * self.shards
    }

    /// Number of customers.
    pub fn customers(self) -> i32 {
        500 * self.shards
    }

    /// Number of suppliers.
    pub fn suppliers(self) -> i32 {
        20 + 12 * self.shards
    }
}

/// Tables that all shards share, with their columns, in an order that respects foreign keys.
pub const SHARED: [(&str, &str); 10] = [
    ("warehouse", "id, code, name, city, country, timezone, opened_on"),
    ("zone", "id, warehouse_id, kind, name, temperature_max"),
    ("location", "id, zone_id, code, aisle, rack, level, weight_max_kg, is_blocked"),
    ("category", "id, parent_id, name, path"),
    ("supplier", "id, name, country, rating, lead_days, email"),
    (
        "product",
        "id, sku, name, category_id, supplier_id, unit, weight_g, volume_cm3, shelf_life_days, reorder_point, \
         is_active, listed_on, attributes",
    ),
    ("price_history", "product_id, valid_from, price, cost"),
    ("customer", "id, name, kind, tier, city, country, email, credit_limit, registered_on"),
    ("carrier", "id, name, mode, rate_per_kg"),
    ("employee", "id, warehouse_id, manager_id, name, job, hired_on, left_on"),
];

/// Tables of which each shard has a part.
pub const SHARDED: [(&str, &str); 10] = [
    ("purchase_order", "id, supplier_id, warehouse_id, ordered_at, expected_on, status"),
    ("purchase_order_line", "purchase_order_id, line, product_id, qty, received, unit_cost"),
    ("lot", "id, product_id, purchase_order_id, line, received_at, expires_on"),
    ("inventory", "location_id, lot_id, on_hand, reserved, counted_at"),
    ("sales_order", "id, customer_id, warehouse_id, placed_at, required_on, status, priority, note"),
    ("sales_order_line", "order_id, line, product_id, qty, unit_price, discount"),
    ("allocation", "order_id, line, location_id, lot_id, qty"),
    ("shipment", "id, order_id, carrier_id, tracking, weight_g, shipped_at, delivered_at"),
    ("shipment_line", "shipment_id, order_id, line, lot_id, qty"),
    (
        "movement",
        "id, kind, lot_id, from_location_id, to_location_id, qty, order_id, line, employee_id, moved_at",
    ),
];

/// What a shard needs to know of the shared tables.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    supplier: i32,
    weight_g: i64,
    shelf_life_days: Option<i32>,
    /// Hundredths, first and last day's price in between; cost is a share of it.
    price: i64,
    cost: i64,
}

/// Everything that is the same for all parts.
pub struct Generator {
    seed: u64,
    /// How much.
    pub scale: Scale,
    products: Vec<Product>,
    product_ranks: Ranks,
    product_scatter: Scatter,
    customer_ranks: Ranks,
    customer_scatter: Scatter,
    day_ranks: Ranks,
    warehouses: Vec<i32>,
}

/// A part's rows.
pub struct Part {
    /// Table, columns, and its rows as binary COPY takes them.
    pub tables: Vec<(&'static str, &'static str, Vec<u8>)>,
    /// Rows in all.
    pub rows: u64,
    /// SHA-256 of all of it, hexadecimal.
    pub digest: String,
}

/// Streams of random numbers by purpose.
mod purpose {
    pub const PRODUCT: u64 = 1;
    pub const PRICE: u64 = 2;
    pub const CUSTOMER: u64 = 3;
    pub const SUPPLIER: u64 = 4;
    pub const EMPLOYEE: u64 = 5;
    pub const LOCATION: u64 = 6;
    pub const SHARD: u64 = 7;
    pub const WAREHOUSE: u64 = 8;
}

impl Generator {
    /// For this seed and scale.
    pub fn new(seed: u64, scale: Scale) -> Self {
        let (products, customers) = (scale.products() as usize, scale.customers() as usize);
        Self {
            seed,
            scale,
            products: (1..=scale.products()).map(|id| shared::product(seed, scale, id)).collect(),
            product_ranks: Ranks::zipf(products),
            product_scatter: Scatter::new(products as u64),
            customer_ranks: Ranks::zipf(customers),
            customer_scatter: Scatter::new(customers as u64),
            day_ranks: Ranks::weighted((FIRST_DAY..=LAST_DAY).map(busyness)),
            warehouses: warehouses(seed, scale),
        }
    }

    /// How many parts there are: -1 (shared tables) and one a shard.
    pub fn parts(&self) -> std::ops::Range<i32> {
        -1..self.scale.shards
    }

    /// Makes a part.
    ///
    /// # Panics
    /// A shard that has more rows than numbers are set aside for, which no seed does.
    pub fn part(&self, part: i32) -> Part {
        let (names, rows) = match part {
            -1 => (SHARED, shared::tables(self)),
            shard => (SHARDED, shard::tables(self, shard)),
        };
        let count = rows.iter().map(|rows| rows.count).sum();
        let mut digest = Sha256::new();
        let tables = names.into_iter().zip(rows).map(|((table, columns), rows)| {
            let bytes = rows.finish();
            digest.update(&bytes);
            (table, columns, bytes)
        });
        let tables = tables.collect();
        Part { tables, rows: count, digest: hex(&digest.finalize()) }
    }

    /// The warehouse of a shard.
    fn warehouse(&self, shard: i32) -> i32 {
        self.warehouses[shard as usize]
    }
}

/// The digest of a data set from those of its parts, in order.
pub fn digest(parts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut all = Sha256::new();
    for part in parts {
        all.update(part.as_ref());
    }
    hex(&all.finalize())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How busy a day is: business grows by half over the two years, December is twice as busy as February, Sundays are quiet.
fn busyness(days: i32) -> f64 {
    const SEASON: [f64; 12] = [0.8, 0.75, 0.9, 0.95, 1.0, 1.0, 0.85, 0.8, 1.0, 1.1, 1.4, 1.5];
    // 1970-01-01 was a Thursday; Monday first.
    const WEEKDAY: [f64; 7] = [1.2, 1.1, 1.0, 1.0, 1.1, 0.7, 0.4];
    let growth = 1.0 + 0.5 * f64::from(days - FIRST_DAY) / f64::from(LAST_DAY - FIRST_DAY);
    growth * SEASON[month(days) as usize - 1] * WEEKDAY[(days + 3).rem_euclid(7) as usize]
}

/// Each warehouse has a shard; the other shards go where business is: the first warehouses have most.
fn warehouses(seed: u64, scale: Scale) -> Vec<i32> {
    let ranks = Ranks::zipf(scale.warehouses() as usize);
    let draw = |shard: i32| match shard {
        first if first < scale.warehouses() => first + 1,
        more => ranks.draw(&mut Rng::new(seed, purpose::WAREHOUSE, more as u64)) as i32 + 1,
    };
    (0..scale.shards).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_bytes_in_any_order() {
        let scale = Scale::new(0.25).unwrap();
        let forwards: Vec<String> = {
            let generator = Generator::new(42, scale);
            generator.parts().map(|part| generator.part(part).digest).collect()
        };
        let backwards: Vec<String> = {
            let generator = Generator::new(42, scale);
            let mut digests: Vec<String> =
                generator.parts().rev().map(|part| generator.part(part).digest).collect();
            digests.reverse();
            digests
        };
        assert_eq!(forwards, backwards);
        let other = Generator::new(43, scale);
        for (part, digest) in other.parts().zip(&forwards) {
            assert_ne!(&other.part(part).digest, digest, "part {part} does not depend on the seed");
        }
    }

    /// Whoever changes the generator must raise VERSION: recorded runs name the data by it.
    #[test]
    fn data_of_this_version_is_fixed() {
        let generator = Generator::new(1, Scale::new(0.0625).unwrap());
        let all = digest(generator.parts().map(|part| generator.part(part).digest));
        assert_eq!((VERSION, &all[..16]), (1, "4e0c9b0a738419d0"));
    }

    #[test]
    fn scales_are_steps_of_a_sixteenth() {
        assert_eq!(Scale::new(1.0).unwrap().shards, 16);
        assert_eq!(Scale::new(0.07).unwrap().shards, 1);
        assert!(Scale::new(0.01).is_err() && Scale::new(1e9).is_err() && Scale::new(f64::NAN).is_err());
    }
}
