//! Sizes as people write them: `1GiB`, `512MiB`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written with a binary unit: `512MiB`, `1GiB`, `1.5GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// One kibibyte.
pub const KIB: u64 = 1024;
/// One mebibyte.
pub const MIB: u64 = 1024 * KIB;
/// One gibibyte.
pub const GIB: u64 = 1024 * MIB;
const UNITS: [(&str, u64); 4] = [("TiB", 1024 * GIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

impl Bytes {
    /// Whole mebibytes, rounded down.
    pub fn mib(self) -> u64 {
        self.0 / MIB
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error =
            || format!("`{text}` is not a size: write a number and KiB, MiB, GiB or TiB, as in `1GiB`");
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number.trim_end(), *factor)))
            .ok_or_else(error)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits =
            |s: &str| (!s.is_empty() && s.len() <= 12 && s.bytes().all(|b| b.is_ascii_digit())).then_some(());
        digits(whole).and(digits(fraction)).ok_or_else(error)?;
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
        let part: u128 = fraction.parse().map_err(|_| error())?;
        let bytes = u128::from(whole) * u128::from(factor) + part * u128::from(factor) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| error())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}KiB", self.0.div_ceil(KIB)),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "size",
            "description": "A size with a binary unit, as in `1GiB`.",
            "pattern": r"^[0-9]{1,12}(\.[0-9]{1,12})? ?(KiB|MiB|GiB|TiB)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_as_people_do() {
        for (text, bytes, shown) in [
            ("1GiB", GIB, "1GiB"),
            ("1.5GiB", GIB + GIB / 2, "1536MiB"),
            ("512 MiB", 512 * MIB, "512MiB"),
            ("0.5KiB", 512, "1KiB"),
        ] {
            let size: Bytes = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
        for text in
            ["", "1", "GiB", "1GB", "-1GiB", "1.GiB", "99999999999999999GiB", "999999999999TiB", "１GiB"]
        {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
