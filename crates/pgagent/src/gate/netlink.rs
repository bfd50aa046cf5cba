//! The elements of the sets, changed by one message to the kernel: starting nft for it, once a heartbeat, would cost more
//! than all else the agent does, and takes seconds on a host that is short of memory or processes.

use std::{io, os::fd::OwnedFd};

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `NLMSG_ERROR`, whose number is 0 when all went well.
const ERROR: u16 = 2;
/// `NFNL_MSG_BATCH_BEGIN` and `END`.
const BATCH: [u16; 2] = [0x10, 0x11];
/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM`, of that subsystem.
const ADD: u16 = NFTABLES << 8 | 12;
const DELETE: u16 = NFTABLES << 8 | 14;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_CREATE`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// An attribute that has attributes inside.
const NESTED: u16 = 0x8000;

/// Sets the element `port` of each set of table `inet pgagent` to a timeout in ms, or takes it away; all at once.
///
/// # Errors
/// The kernel refuses, and nothing is changed.
pub fn replace(port: u16, elements: &[(&str, Option<u64>)]) -> io::Result<()> {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    net::send(&socket, &batch(port, elements), SendFlags::empty())?;
    outcome(&socket)
}

/// The kernel has done the work by the time `send` returns: all its answers are there.
fn outcome(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 8192];
    let mut answered = false;
    loop {
        let length = match net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((_, length)) => length,
            Err(rustix::io::Errno::AGAIN) if answered => return Ok(()),
            Err(rustix::io::Errno::AGAIN) => return Err(io::Error::other("the kernel did not answer")),
            Err(error) => return Err(error.into()),
        };
        for code in errors(&buffer[..length.min(buffer.len())]) {
            answered = true;
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
        }
    }
}

/// The numbers in a datagram of answers.
fn errors(mut bytes: &[u8]) -> Vec<i32> {
    let mut codes = Vec::new();
    while let (Some(length), Some(kind)) = (word(bytes, 0), word(bytes, 4)) {
        if kind as u16 == ERROR {
            codes.extend(word(bytes, 16).map(|code| code as i32));
        }
        let next = (length as usize).next_multiple_of(4).max(16);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    codes
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An element that is there does not get a new timeout by adding alone, and one that is not there cannot be deleted.
fn batch(port: u16, elements: &[(&str, Option<u64>)]) -> Vec<u8> {
    let mut bytes = message(BATCH[0], REQUEST, 0, NFTABLES, &[]);
    for (set, timeout) in elements {
        bytes.extend(message(ADD, REQUEST | CREATE | ACK, INET, 0, &element(set, port, None)));
        bytes.extend(message(DELETE, REQUEST | ACK, INET, 0, &element(set, port, None)));
        if timeout.is_some() {
            bytes.extend(message(ADD, REQUEST | CREATE | ACK, INET, 0, &element(set, port, *timeout)));
        }
    }
    bytes.extend(message(BATCH[1], REQUEST, 0, NFTABLES, &[]));
    bytes
}

/// A message: header of netlink, header of netfilter, attributes.
fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend(u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// The attributes that name an element of a set.
fn element(set: &str, port: u16, timeout: Option<u64>) -> Vec<u8> {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let key = attribute(NESTED | 1, &attribute(1, &port.to_be_bytes()));
    let timeout = timeout.map(|ms| attribute(4, &ms.to_be_bytes())).unwrap_or_default();
    let list = attribute(NESTED | 1, &[key, timeout].concat());
    [attribute(1, &text("pgagent")), attribute(2, &text(set)), attribute(NESTED | 3, &list)].concat()
}

/// Length, kind, value, and what fills it up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend(u16::try_from(value.len() + 4).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_and_aligned() {
        let bytes = batch(5432, &[("clients", None), ("peers", Some(1_500))]);
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let length = word(&bytes, at).unwrap() as usize;
            assert_eq!(length % 4, 0);
            kinds.push(word(&bytes, at + 4).unwrap() as u16);
            at += length;
        }
        assert_eq!(at, bytes.len());
        assert_eq!(kinds, [BATCH[0], ADD, DELETE, ADD, DELETE, ADD, BATCH[1]]);
        let port = 5432u16.to_be_bytes();
        assert_eq!(bytes.windows(2).filter(|pair| **pair == port).count(), 5);
        assert!(bytes.windows(8).any(|eight| eight == 1_500u64.to_be_bytes()));
    }

    #[test]
    fn answers_are_read_to_the_end() {
        let answer = |code: i32| {
            let mut bytes = message(ERROR, 0, 0, 0, &[0; 16]);
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert_eq!(errors(&[answer(0), answer(-2)].concat()), [0, -2]);
        assert_eq!(errors(&answer(0)[..18]), Vec::<i32>::new());
        assert_eq!(errors(&[0; 40]), Vec::<i32>::new());
    }
}
