//! PostgreSQL's binary COPY format, written into memory.

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's day zero.
const EPOCH_DAYS: i32 = 10_957;

/// Rows of one table.
#[derive(Clone, Debug)]
pub struct Rows {
    bytes: Vec<u8>,
    /// How many.
    pub count: u64,
}

impl Default for Rows {
    fn default() -> Self {
        Self { bytes: SIGNATURE.to_vec(), count: 0 }
    }
}

impl Rows {
    /// Begins a row of so many fields; exactly as many must follow.
    pub fn row(&mut self, fields: i16) -> &mut Self {
        self.count += 1;
        self.bytes.extend(fields.to_be_bytes());
        self
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend((bytes.len() as i32).to_be_bytes());
        self.bytes.extend(bytes);
        self
    }

    /// SQL's NULL.
    pub fn null(&mut self) -> &mut Self {
        self.bytes.extend((-1i32).to_be_bytes());
        self
    }

    /// smallint.
    pub fn int2(&mut self, value: i16) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// integer.
    pub fn int4(&mut self, value: i32) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// bigint.
    pub fn int8(&mut self, value: i64) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.field(&[u8::from(value)])
    }

    /// text, char(n) or varchar.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.field(value.as_bytes())
    }

    /// jsonb from its text.
    pub fn jsonb(&mut self, value: &str) -> &mut Self {
        self.bytes.extend((value.len() as i32 + 1).to_be_bytes());
        self.bytes.push(1);
        self.bytes.extend(value.as_bytes());
        self
    }

    /// date, from days since 1970-01-01.
    pub fn date(&mut self, days: i32) -> &mut Self {
        self.int4(days - EPOCH_DAYS)
    }

    /// timestamptz, from seconds since 1970-01-01 UTC.
    pub fn time(&mut self, seconds: i64) -> &mut Self {
        self.int8((seconds - i64::from(EPOCH_DAYS) * 86_400) * 1_000_000)
    }

    /// numeric with two decimals, from hundredths; not negative.
    pub fn hundredths(&mut self, value: i64) -> &mut Self {
        self.numeric(value, 2)
    }

    /// numeric with `scale` (1 to 4) decimals, from the number without its point; not negative.
    pub fn numeric(&mut self, value: i64, scale: u32) -> &mut Self {
        let unit = 10i64.pow(scale);
        let fraction = (value % unit) * 10i64.pow(4 - scale);
        let mut whole = value / unit;
        // Digits of base 10000, the most significant first; their weight is the power of 10000 of the first.
        let mut digits = Vec::new();
        while whole > 0 {
            digits.push((whole % 10_000) as i16);
            whole /= 10_000;
        }
        let mut weight = digits.len() as i16 - 1;
        digits.reverse();
        digits.push(fraction as i16);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        if digits.is_empty() {
            weight = 0;
        }
        self.bytes.extend((8 + 2 * digits.len() as i32).to_be_bytes());
        for word in [digits.len() as i16, weight, 0, scale as i16].into_iter().chain(digits) {
            self.bytes.extend(word.to_be_bytes());
        }
        self
    }

    /// All rows, as COPY ... (FORMAT binary) takes them.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend((-1i16).to_be_bytes());
        self.bytes
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar (Howard Hinnant's days_from_civil).
pub const fn day(year: i32, month: i32, day: i32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Month (1 to 12) of a day since 1970-01-01.
pub fn month(days: i32) -> i32 {
    let of_era = (days + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    ((5 * of_year + 2) / 153 + 2) % 12 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(day(1970, 1, 1), 0);
        assert_eq!(day(2000, 1, 1), EPOCH_DAYS);
        assert_eq!(day(2024, 2, 29) + 1, day(2024, 3, 1));
        assert_eq!(day(2026, 11, 21), 20_778);
        for (m, days) in
            [(1, day(2025, 1, 31)), (2, day(2024, 2, 29)), (3, day(2024, 3, 1)), (12, day(2024, 12, 31))]
        {
            assert_eq!(month(days), m);
        }
    }

    #[test]
    fn numerics_have_base_ten_thousand_digits() {
        let bytes = |value, scale| {
            let mut rows = Rows::default();
            rows.numeric(value, scale);
            rows.bytes[SIGNATURE.len() + 4..].to_vec()
        };
        // ndigits, weight, sign, dscale, digits
        assert_eq!(bytes(0, 2), [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(bytes(1, 2), [0, 1, 255, 255, 0, 0, 0, 2, 0, 100]);
        assert_eq!(bytes(123_456_700, 2), [0, 2, 0, 1, 0, 0, 0, 2, 0, 123, 17, 215]);
        assert_eq!(bytes(45, 1), [0, 2, 0, 0, 0, 0, 0, 1, 0, 4, 19, 136]);
    }
}
