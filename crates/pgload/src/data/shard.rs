//! One slice of one warehouse over two years, simulated order by order.

use std::collections::HashMap;

use super::{
    EMPLOYEES, FIRST_DAY, Generator, LAST_DAY, LOCATIONS, LOTS, MOVEMENTS, ORDERS, Rows, purpose,
    shared::{CARRIERS, ZONES},
};
use crate::rng::Rng;

const DAY: i64 = 86_400;
const HOUR: i64 = 3_600;
/// Purchase orders that are still open at the end, for goods to be received.
const OPEN_PURCHASES: i64 = 40;

/// How far an order got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    New,
    Allocated,
    Picked,
    Packed,
    Shipped,
    Delivered,
    Cancelled,
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Allocated => "allocated",
            Self::Picked => "picked",
            Self::Packed => "packed",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What lies of a lot at a location.
struct Place {
    lot: i64,
    location: i32,
    on_hand: i64,
    reserved: i64,
    counted: i64,
}

struct Shard<'a> {
    generator: &'a Generator,
    shard: i32,
    warehouse: i32,
    rng: Rng,
    /// All places, and those of each product in the order in which goods are taken from them.
    places: Vec<Place>,
    of_product: HashMap<i32, Vec<usize>>,
    lots: i64,
    purchases: i64,
    movements: i64,
    rows: Tables,
}

#[derive(Default)]
struct Tables {
    purchase_order: Rows,
    purchase_order_line: Rows,
    lot: Rows,
    inventory: Rows,
    sales_order: Rows,
    sales_order_line: Rows,
    allocation: Rows,
    shipment: Rows,
    shipment_line: Rows,
    movement: Rows,
}

/// An order being processed.
struct Order {
    id: i64,
    placed: i64,
    status: Status,
}

/// All rows of a shard, in the order of [`super::SHARDED`].
pub(super) fn tables(generator: &Generator, shard: i32) -> Vec<Rows> {
    let mut simulation = Shard {
        generator,
        shard,
        warehouse: generator.warehouse(shard),
        rng: Rng::new(generator.seed, purpose::SHARD, shard as u64),
        places: Vec::new(),
        of_product: HashMap::new(),
        lots: 0,
        purchases: 0,
        movements: 0,
        rows: Tables::default(),
    };
    for (index, placed) in simulation.times().into_iter().enumerate() {
        simulation.order(index as i64, placed);
    }
    for _ in 0..OPEN_PURCHASES {
        simulation.open_purchase();
    }
    simulation.inventory();
    assert!(simulation.lots < LOTS && simulation.movements < MOVEMENTS, "shard {shard} has too many rows");
    let Tables {
        purchase_order,
        purchase_order_line,
        lot,
        inventory,
        sales_order,
        sales_order_line,
        allocation,
        shipment,
        shipment_line,
        movement,
    } = simulation.rows;
    vec![
        purchase_order,
        purchase_order_line,
        lot,
        inventory,
        sales_order,
        sales_order_line,
        allocation,
        shipment,
        shipment_line,
        movement,
    ]
}

impl Shard<'_> {
    /// When orders are placed: by season and weekday, between 7 and 22 o'clock.
    fn times(&mut self) -> Vec<i64> {
        let draw = |_| {
            let day = FIRST_DAY + self.generator.day_ranks.draw(&mut self.rng) as i32;
            i64::from(day) * DAY + self.rng.range(7 * HOUR, 22 * HOUR)
        };
        let mut times: Vec<i64> = (0..ORDERS).map(draw).collect();
        times.sort_unstable();
        times
    }

    fn product(&mut self) -> i32 {
        let rank = self.generator.product_ranks.draw(&mut self.rng);
        self.generator.product_scatter.at(rank as u64) as i32
    }

    /// How far an order gets by the end, from its age.
    fn status(&mut self, placed: i64) -> Status {
        let age = i64::from(LAST_DAY + 1) - placed / DAY;
        let luck = self.rng.below(100);
        match age {
            ..=2 if luck < 20 => Status::New,
            ..=2 if luck < 70 => Status::Allocated,
            ..=2 if luck < 85 => Status::Picked,
            ..=2 => Status::Packed,
            3..=8 if luck < 10 => Status::Packed,
            3..=8 if luck < 15 => Status::Allocated,
            3..=8 if luck < 70 => Status::Shipped,
            _ if luck >= 96 => Status::Cancelled,
            _ => Status::Delivered,
        }
    }

    fn order(&mut self, index: i64, placed: i64) {
        let status = self.status(placed);
        let order = Order { id: i64::from(self.shard) * ORDERS + index + 1, placed, status };
        let customer = {
            let rank = self.generator.customer_ranks.draw(&mut self.rng);
            self.generator.customer_scatter.at(rank as u64) as i32
        };
        let priority = [1, 2, 3, 3, 3, 3, 4, 5][self.rng.below(8) as usize];
        let rows = &mut self.rows.sales_order;
        rows.row(8).int8(order.id).int4(customer).int4(self.warehouse).time(placed);
        rows.date((placed / DAY) as i32 + 2 + i32::from(priority)).text(status.text()).int2(priority);
        if self.rng.percent(5) {
            rows.text("please call before delivery")
        } else {
            rows.null()
        };

        // Two to four lines in most orders, up to twelve.
        let lines = 1 + self.rng.below(4) * self.rng.below(4) + self.rng.below(3);
        let mut taken = Vec::new();
        for line in 1..=lines as i16 {
            taken.extend(
                self.line(&order, line).into_iter().map(|(lot, qty, weight)| (line, lot, qty, weight)),
            );
        }
        if matches!(status, Status::Shipped | Status::Delivered) && !taken.is_empty() {
            self.ship(&order, &taken);
        }
    }

    /// One line of an order; returns what was taken for it: lot, quantity, weight.
    fn line(&mut self, order: &Order, line: i16) -> Vec<(i64, i64, i64)> {
        let product = self.product();
        let qty = 1 + self.rng.below(4) as i64 * (1 + self.rng.below(5) as i64);
        let known = self.generator.products[product as usize - 1].clone();
        let discount = [0, 0, 0, 0, 0, 5, 10, 15][self.rng.below(8) as usize];
        let rows = &mut self.rows.sales_order_line;
        rows.row(6).int8(order.id).int2(line).int4(product).int4(qty as i32).hundredths(known.price);
        rows.numeric(discount, 2);
        if matches!(order.status, Status::New | Status::Cancelled) {
            return Vec::new();
        }
        self.stock_up(product, qty, order.placed);
        let mut missing = qty;
        let mut taken = Vec::new();
        for at in self.of_product.get(&product).cloned().unwrap_or_default() {
            let place = &mut self.places[at];
            let take = missing.min(place.on_hand - place.reserved);
            if take == 0 {
                continue;
            }
            missing -= take;
            let (lot, location) = (place.lot, place.location);
            if order.status == Status::Allocated {
                place.reserved += take;
                self.rows
                    .allocation
                    .row(5)
                    .int8(order.id)
                    .int2(line)
                    .int4(location)
                    .int8(lot)
                    .int4(take as i32);
            } else {
                place.on_hand -= take;
                let when = order.placed + self.rng.range(HOUR, 20 * HOUR);
                self.places[at].counted = when;
                self.movement("pick", lot, Some(location), None, take, Some((order.id, line)), when);
                match taken.iter_mut().find(|(known, _, _)| *known == lot) {
                    Some((_, qty, weight)) => {
                        *qty += take;
                        *weight += take * known.weight_g;
                    }
                    None => taken.push((lot, take, take * known.weight_g)),
                }
            }
            if missing == 0 {
                break;
            }
        }
        // Places that are empty are not looked at again.
        if let Some(places) = self.of_product.get_mut(&product) {
            places.retain(|at| self.places[*at].on_hand > 0);
        }
        taken
    }

    /// Buys and puts away goods until there is enough of a product.
    fn stock_up(&mut self, product: i32, qty: i64, now: i64) {
        let free: i64 = self.of_product.get(&product).map_or(0, |places| {
            places.iter().map(|at| self.places[*at].on_hand - self.places[*at].reserved).sum()
        });
        if free >= qty {
            return;
        }
        let purchase = self.purchase(product, now, "received");
        let bought = (qty - free) + self.rng.range(5, 40) * (1 + self.rng.below(6) as i64);
        let cost = self.generator.products[product as usize - 1].cost;
        let rows = &mut self.rows.purchase_order_line;
        rows.row(6)
            .int8(purchase)
            .int2(1)
            .int4(product)
            .int4(bought as i32)
            .int4(bought as i32)
            .hundredths(cost);
        let arrived = now - self.rng.range(HOUR, 30 * HOUR);
        self.receive(product, purchase, bought, arrived);
    }

    fn purchase(&mut self, product: i32, now: i64, status: &str) -> i64 {
        self.purchases += 1;
        let id = i64::from(self.shard) * LOTS + self.purchases;
        let supplier = self.generator.products[product as usize - 1].supplier;
        let ordered = now - self.rng.range(3, 30) * DAY;
        let rows = &mut self.rows.purchase_order;
        rows.row(6).int8(id).int4(supplier).int4(self.warehouse).time(ordered);
        rows.date((now / DAY) as i32 + self.rng.range(-3, 3) as i32).text(status);
        id
    }

    /// A lot arrives at a receiving location and is put away: cold goods to the cold zone, others to bulk, and a part of
    /// them on to a picking location.
    fn receive(&mut self, product: i32, purchase: i64, qty: i64, when: i64) {
        self.lots += 1;
        let lot = i64::from(self.shard) * LOTS + self.lots;
        let perishes = self.generator.products[product as usize - 1].shelf_life_days;
        let rows = &mut self.rows.lot;
        rows.row(6).int8(lot).int4(product).int8(purchase).int2(1).time(when);
        match perishes {
            Some(days) => rows.date((when / DAY) as i32 + days),
            None => rows.null(),
        };
        let dock = self.location("receiving");
        let shelf = self.location(if perishes.is_some() { "cold" } else { "bulk" });
        self.movement("receipt", lot, None, Some(dock), qty, None, when);
        let put_away = when + self.rng.range(HOUR / 4, 6 * HOUR);
        self.movement("move", lot, Some(dock), Some(shelf), qty, None, put_away);
        let mut places = vec![Place { lot, location: shelf, on_hand: qty, reserved: 0, counted: put_away }];
        if qty > 20 && self.rng.percent(60) {
            let (part, pick) = (qty / 4, self.location("picking"));
            let moved = put_away + self.rng.range(HOUR, 40 * HOUR);
            self.movement("move", lot, Some(shelf), Some(pick), part, None, moved);
            places[0].on_hand -= part;
            places.insert(0, Place { lot, location: pick, on_hand: part, reserved: 0, counted: moved });
        }
        for place in places {
            self.of_product.entry(product).or_default().push(self.places.len());
            self.places.push(place);
        }
    }

    /// A location of this shard in a zone of this kind.
    fn location(&mut self, kind: &str) -> i32 {
        let mut first = self.shard * LOCATIONS + 1;
        for (name, count) in ZONES {
            if name == kind {
                return first + self.rng.below(count as u64) as i32;
            }
            first += count;
        }
        first
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of a movement")]
    fn movement(
        &mut self,
        kind: &str,
        lot: i64,
        from: Option<i32>,
        to: Option<i32>,
        qty: i64,
        line: Option<(i64, i16)>,
        when: i64,
    ) {
        self.movements += 1;
        let rows = &mut self.rows.movement;
        rows.row(10).int8(i64::from(self.shard) * MOVEMENTS + self.movements).text(kind).int8(lot);
        for location in [from, to] {
            match location {
                Some(id) => rows.int4(id),
                None => rows.null(),
            };
        }
        rows.int4(qty as i32);
        match line {
            Some((order, line)) => rows.int8(order).int2(line),
            None => rows.null().null(),
        };
        rows.int4(self.shard * EMPLOYEES + 1 + self.rng.below(EMPLOYEES as u64) as i32).time(when);
    }

    fn ship(&mut self, order: &Order, taken: &[(i16, i64, i64, i64)]) {
        let shipped = order.placed + self.rng.range(20, 60) * HOUR;
        let carrier = (self.rng.below(8) * self.rng.below(8) / 8) as i32 % CARRIERS.len() as i32 + 1;
        let weight: i64 = taken.iter().map(|(_, _, _, weight)| weight).sum();
        let rows = &mut self.rows.shipment;
        // An order has at most one shipment: they share their number.
        rows.row(7).int8(order.id).int8(order.id).int4(carrier).text(&format!("{carrier}T{:010}", order.id));
        rows.int8(weight).time(shipped);
        match order.status {
            Status::Delivered => rows.time(shipped + self.rng.range(8, 140) * HOUR),
            _ => rows.null(),
        };
        for (line, lot, qty, _) in taken {
            self.rows
                .shipment_line
                .row(5)
                .int8(order.id)
                .int8(order.id)
                .int2(*line)
                .int8(*lot)
                .int4(*qty as i32);
        }
    }

    /// A purchase order with a few lines of which nothing has come in.
    fn open_purchase(&mut self) {
        let product = self.product();
        let id = self.purchase(product, i64::from(LAST_DAY) * DAY, "open");
        for line in 1..=self.rng.range(1, 4) as i16 {
            let product = if line == 1 { product } else { self.product() };
            let cost = self.generator.products[product as usize - 1].cost;
            let qty = self.rng.range(20, 400) as i32;
            self.rows
                .purchase_order_line
                .row(6)
                .int8(id)
                .int2(line)
                .int4(product)
                .int4(qty)
                .int4(0)
                .hundredths(cost);
        }
    }

    fn inventory(&mut self) {
        for place in self.places.iter().filter(|place| place.on_hand > 0) {
            let rows = &mut self.rows.inventory;
            rows.row(5)
                .int4(place.location)
                .int8(place.lot)
                .int4(place.on_hand as i32)
                .int4(place.reserved as i32);
            rows.time(place.counted);
        }
    }
}
