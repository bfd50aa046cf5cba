//! How a copy of a machine becomes a host of its own.
//!
//! A machine that boots without a name is a template: it waits here, is saved with its memory, and whatever is made of it wakes
//! up at this place and is told on the port who it is. It says `waiting` and reads, up to a line `end`:
//!   hostname NAME            machine-id HEX         boot-id UUID        uuid UUID     clock TIME      entropy BASE64
//!   interface NAME MAC ADDRESS/PREFIX               authorized-key LINE host-key LINE       host-private-key BASE64
//! It answers `done` (`failed WORD: CAUSE` before that for each line it could not follow). Network cables are plugged in after that.
//! The IPv4 addresses are those that DHCP would give it. To ask takes an emulated processor a fifth of a second: networkd comes with the
//! next boot, or when somebody starts it.
//!
//! All of it without a process: nothing of a machine that was just restored is translated yet when it is emulated, and each
//! program that starts costs it a tenth of a second.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pghost::wire;
use rustix::{mount, net, process, time};

use crate::port::Port;

/// Where systemd keeps what the hypervisor tells a machine that boots.
const NAME_AT_BOOT: &str = "/run/credentials/@system/system.hostname";
/// There once this machine knows who it is, until it boots again.
const KNOWN: &str = "/run/pgprov-identity";
/// What a machine that boots does.
const AT_BOOT: &str = "/usr/lib/pgprov/identity";
/// Reads what hosts will need, and ends what they would have to begin anew.
const WARM: &str = "/usr/lib/pgprov/warm";
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
const MACHINE_ID: &str = "/etc/machine-id";
/// What the kernel calls this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// What the firmware calls this machine.
const UUID: &str = "/sys/class/dmi/id/product_uuid";
/// What else the firmware says, with that in it.
const DMI: &str = "/sys/firmware/dmi/tables/DMI";
/// Folder of the files that lie over those three in a copy.
const COVERS: &str = "/run/pgprov/covers";

/// Finds out who this machine is: from what it was told at its boot, or else on the port.
///
/// # Errors
/// What was told is no identity, or the port fails.
pub fn find_out(port: Option<&mut Port>) -> io::Result<()> {
    if Path::new(KNOWN).exists() {
        return Ok(());
    }
    match port {
        _ if Path::new(NAME_AT_BOOT).exists() => at_boot("at-boot")?,
        Some(port) => learn(port)?,
        // A machine that somebody else made of the image, like Vagrant, and who it is was told in another way.
        None => return Ok(()),
    }
    fs::write(KNOWN, "")
}

fn at_boot(what: &str) -> io::Result<()> {
    let status = Command::new(AT_BOOT).arg(what).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{AT_BOOT}: {status}"))) }
}

fn learn(port: &mut Port) -> io::Result<()> {
    // A copy that boots from this disk, without the memory, makes an id of its own.
    fs::write(MACHINE_ID, "")?;
    cover_ids()?;
    // Every copy would have to.
    Command::new(WARM).status()?;
    rustix::fs::sync();
    loop {
        port.greet("waiting")?;
        let mut failed = String::new();
        let mut lines = BufReader::new(&mut *port).lines();
        let end = loop {
            let Some(line) = lines.next().transpose()? else { break false };
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            if word == "end" {
                break true;
            }
            if let Err(error) = follow(word, rest) {
                failed.push_str(&format!("failed {word}: {error}\n"));
            }
        };
        if !end {
            continue;
        }
        if let Err(error) = finish() {
            failed.push_str(&format!("failed end: {error}\n"));
        }
        port.send(failed.as_bytes())?;
        port.send(b"done\n")?;
        return Ok(());
    }
}

fn follow(word: &str, rest: &str) -> io::Result<()> {
    match word {
        "hostname" => {
            fs::write("/proc/sys/kernel/hostname", rest)?;
            fs::write("/etc/hostname", format!("{rest}\n"))
        }
        // Two machines with one id would also share the names of their journals.
        "machine-id" => fs::write(MACHINE_ID, format!("{rest}\n")),
        "boot-id" => fs::write(cover_of(BOOT_ID), format!("{rest}\n")),
        "uuid" => give_uuid(rest),
        "clock" => set_clock(wire::duration(rest).ok_or_else(|| invalid(rest))?),
        "entropy" => fs::write("/dev/urandom", rest),
        "interface" => match rest.split(' ').collect::<Vec<_>>()[..] {
            [name, hardware, address] => give_addresses(name, hardware, address),
            _ => Err(invalid(rest)),
        },
        "authorized-key" => authorize(rest),
        "host-key" => fs::write(format!("{HOST_KEY}.pub"), format!("{rest}\n")),
        "host-private-key" => {
            private(Path::new(HOST_KEY), &STANDARD.decode(rest).map_err(|_| invalid("base64"))?)
        }
        _ => Ok(()),
    }
}

/// After all lines: what has to come last.
fn finish() -> io::Result<()> {
    // A journal that there is would be that of the template, under its machine id; systemd starts its daemon anew. Usually there is
    // none, and the first who has something to say starts it: a host that starts no service has none for that long.
    for journal in fs::read_dir("/run/log/journal").into_iter().flatten().flatten() {
        match journal.file_type()?.is_dir() {
            true => fs::remove_dir_all(journal.path())?,
            false => fs::remove_file(journal.path())?,
        }
    }
    end("/sys/fs/cgroup/system.slice/systemd-journald.service/cgroup.procs");
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Sizes in sectors: of the disk, and of the file system.
    if number("/sys/class/block/vda/size") > number("/usr/lib/pgprov/sectors") {
        at_boot("grow")?;
    }
    // A power cut does not take the new identity away again.
    rustix::fs::sync();
    Ok(())
}

/// Puts files over those by which the kernel says which machine this is: a copy would find there, until it boots itself, what the
/// machine was told that it is a copy of. Containers have theirs replaced in the same way. The template does it, because systemd
/// looks at all mounts when there is another one, which costs each copy a tenth of a second.
fn cover_ids() -> io::Result<()> {
    fs::create_dir_all(COVERS)?;
    for (place, mode) in [(BOOT_ID, 0o444), (UUID, 0o400), (DMI, 0o400)] {
        let cover = cover_of(place);
        private(&cover, &fs::read(place)?)?;
        fs::set_permissions(&cover, fs::Permissions::from_mode(mode))?;
        mount::mount_bind(&cover, place)?;
    }
    Ok(())
}

/// The file that lies over that one.
fn cover_of(place: &str) -> PathBuf {
    Path::new(COVERS).join(Path::new(place).file_name().unwrap_or_default())
}

fn give_uuid(uuid: &str) -> io::Result<()> {
    let old = in_table(fs::read_to_string(UUID)?.trim())?;
    let mut bytes = fs::read(DMI)?;
    let at = bytes.windows(old.len()).position(|part| part == old).ok_or_else(|| invalid("DMI"))?;
    bytes[at..at + old.len()].copy_from_slice(&in_table(uuid)?);
    fs::write(cover_of(UUID), format!("{uuid}\n"))?;
    fs::write(cover_of(DMI), bytes)
}

/// A UUID as it is in the firmware's table: the first three of its numbers have their low byte first.
fn in_table(uuid: &str) -> io::Result<[u8; 16]> {
    let digits: String = uuid.split('-').collect();
    let number = u128::from_str_radix(&digits, 16).map_err(|_| invalid(uuid))?;
    let mut bytes = number.to_be_bytes();
    for part in [0..4, 4..6, 6..8] {
        bytes[part].reverse();
    }
    if digits.len() == 32 { Ok(bytes) } else { Err(invalid(uuid)) }
}

/// Ends the processes of a control group.
fn end(group: &str) {
    let processes = fs::read_to_string(group).unwrap_or_default();
    let processes = processes.lines().filter_map(|line| line.trim().parse().ok());
    for process in processes.filter_map(process::Pid::from_raw) {
        // One that is gone by itself is as good.
        let _ = process::kill_process(process, process::Signal::TERM);
    }
}

/// Whether the clock is so far from what it is to be that this machine was away for a while.
pub fn jumps(now: Duration) -> bool {
    let clock = time::clock_gettime(time::ClockId::Realtime);
    u64::try_from(clock.tv_sec).is_ok_and(|seconds| now.as_secs().abs_diff(seconds) > 1)
}

/// Sets the clock to so much since 1970.
///
/// # Errors
/// The kernel refuses.
pub fn set_clock(now: Duration) -> io::Result<()> {
    let tv_sec = i64::try_from(now.as_secs()).map_err(io::Error::other)?;
    let now = time::Timespec { tv_sec, tv_nsec: now.subsec_nanos().into() };
    Ok(time::clock_settime(time::ClockId::Realtime, now)?)
}

fn authorize(key: &str) -> io::Result<()> {
    let file = Path::new("/root/.ssh/authorized_keys");
    if file.metadata().is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create("/root/.ssh")?;
    private(file, format!("{key}\n").as_bytes())
}

/// Writes a file that only root may read.
fn private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)
}

/// Gives an interface its hardware address and, as `ADDRESS/PREFIX`, its IPv4 address, and brings it up.
fn give_addresses(name: &str, hardware: &str, address: &str) -> io::Result<()> {
    let mac: Vec<u8> = hardware.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let (6, Some((address, mask))) = (mac.len(), address_and_mask(address)) else {
        return Err(invalid(&format!("{hardware} {address}")));
    };
    set_interface(name, libc::SIOCSIFHWADDR, |request| {
        let mut hardware = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        fill(&mut hardware.sa_data, &mac);
        request.ifr_ifru.ifru_hwaddr = hardware;
    })?;
    for (call, address) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        set_interface(name, call, |request| {
            let mut inet = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: [0; 14] };
            // After the port.
            fill(&mut inet.sa_data[2..], &address.octets());
            request.ifr_ifru.ifru_addr = inet;
        })?;
    }
    // As networkd is told to have it: no address of IPv6 is made up, and nobody is asked for one.
    fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1")?;
    set_interface(name, libc::SIOCSIFFLAGS, |request| {
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    })
}

fn address_and_mask(text: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (address, prefix) = text.split_once('/')?;
    let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix.parse().ok()?)?).unwrap_or(0);
    Some((address.parse().ok()?, mask.into()))
}

/// Changes one thing of an interface.
#[expect(unsafe_code, reason = "rustix has no such call")]
fn set_interface(name: &str, call: libc::Ioctl, value: impl FnOnce(&mut libc::ifreq)) -> io::Result<()> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(invalid(name));
    }
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::DGRAM, None)?;
    // SAFETY: all of it is numbers, for which zeros are fine.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    fill(&mut request.ifr_name, name.as_bytes());
    value(&mut request);
    // SAFETY: the socket is open, and the request is the structure that this call reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), call, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fill(to: &mut [libc::c_char], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.cast_signed();
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_its_prefix() {
        let pair = |address: [u8; 4], mask: [u8; 4]| Some((address.into(), mask.into()));
        assert_eq!(address_and_mask("10.1.2.3/20"), pair([10, 1, 2, 3], [255, 255, 240, 0]));
        assert_eq!(address_and_mask("10.1.2.3/32"), pair([10, 1, 2, 3], [255; 4]));
        assert_eq!(address_and_mask("10.1.2.3/0"), pair([10, 1, 2, 3], [0; 4]));
        for text in ["10.1.2.3", "10.1.2.3/33", "10.1.2/24", "10.1.2.3/-1", ""] {
            assert_eq!(address_and_mask(text), None, "{text}");
        }
    }

    #[test]
    fn a_uuid_in_the_table_of_the_firmware() {
        let bytes = in_table("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(
            bytes,
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        assert!(in_table("0011").is_err() && in_table("not a UUID").is_err());
    }
}
