//! IPv4 subnets in CIDR notation.

use std::{borrow::Cow, fmt, net::Ipv4Addr, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv4 subnet: `10.77.10.0/24`. The address is always the first of the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    address: u32,
    prefix: u8,
}

impl Subnet {
    /// The subnet of `address` with `prefix` bits; host bits are cleared. `None` when `prefix` is over 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self { address: u32::from(address) & mask(prefix), prefix })
    }

    /// The first address, which names the subnet.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.address)
    }

    /// Bits of the network part, 0 to 32.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask in dotted notation.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// How many hosts fit: all addresses but network, gateway (the first) and broadcast.
    pub fn capacity(self) -> u32 {
        (!mask(self.prefix)).saturating_sub(2)
    }

    /// The address of the hypervisor on this subnet: the first after the network address.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.address.saturating_add(1))
    }

    /// The address of the host with `index` (0 .. `capacity`), after the gateway.
    pub fn host(self, index: u32) -> Option<Ipv4Addr> {
        (index < self.capacity()).then(|| Ipv4Addr::from(self.address + 2 + index))
    }

    /// The index of `address` as [`Subnet::host`] counts; `None` for network, gateway, broadcast and strangers.
    pub fn index_of(self, address: Ipv4Addr) -> Option<u32> {
        let index = u32::from(address).checked_sub(self.address.checked_add(2)?)?;
        (index < self.capacity()).then_some(index)
    }

    /// Whether `address` lies in the subnet.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.address
    }

    /// Whether the two subnets share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let prefix = self.prefix.min(other.prefix);
        self.address & mask(prefix) == other.address & mask(prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error =
            || format!("`{text}` is not a subnet: write address and prefix length, as in `10.77.10.0/24`");
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let parsed: Ipv4Addr = address.parse().map_err(|_| error())?;
        let bits: u8 = prefix.parse().map_err(|_| error())?;
        let subnet = Self::new(parsed, bits).ok_or_else(error)?;
        if subnet.network() == parsed {
            Ok(subnet)
        } else {
            Err(format!("`{text}` has bits set after the prefix: did you mean `{subnet}`?"))
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Subnet {
    fn schema_name() -> Cow<'static, str> {
        "Subnet".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "subnet",
            "description": "An IPv4 subnet, as in `10.77.10.0/24`.",
            "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_subnet() {
        let subnet: Subnet = "10.77.10.0/24".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 77, 10, 1));
        assert_eq!(subnet.capacity(), 253);
        assert_eq!(subnet.host(0), Some(Ipv4Addr::new(10, 77, 10, 2)));
        assert_eq!(subnet.host(252), Some(Ipv4Addr::new(10, 77, 10, 254)));
        assert_eq!(subnet.host(253), None);
        assert_eq!(subnet.index_of(Ipv4Addr::new(10, 77, 10, 254)), Some(252));
        for outside in [[10, 77, 10, 0], [10, 77, 10, 1], [10, 77, 10, 255], [10, 77, 11, 2], [0, 0, 0, 0]] {
            assert_eq!(subnet.index_of(outside.into()), None, "{outside:?}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_every_prefix_is_safe() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.77.10.0/24")));
        assert!(!subnet("10.77.11.0/24").overlaps(subnet("10.77.10.0/24")));
        for prefix in 0..=32 {
            let top = Subnet::new(Ipv4Addr::BROADCAST, prefix).unwrap();
            assert!(top.contains(Ipv4Addr::BROADCAST) && top.overlaps(top));
            let _ = (top.gateway(), top.capacity(), top.host(0), top.netmask());
        }
        assert!("10.77.10.1/24".parse::<Subnet>().unwrap_err().contains("10.77.10.0/24"));
    }
}
