//! The lab's own `known_hosts`: pinned at first contact, refused when a pinned key changes.
//!
//! The format is OpenSSH's, one `NAME ALGORITHM BASE64` a line, so `ssh` reads the same file with `HostKeyAlias NAME`.
//! Hosts are listed by lab name and not by address, because the name is what identifies a host.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};

use super::Error;
use crate::durable::{self, Turn};

/// Accepts the key `blob` (SSH wire format) that `host` offered when it is pinned, and pins it when the host is new.
pub(super) fn check_or_pin(file: &Path, host: &str, blob: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::KnownHosts { file: file.to_owned(), source };
    // Nearly always the host is known, and then nobody needs to wait for a turn.
    if check(file, host, blob)? {
        return Ok(());
    }
    let (dir, name) = durable::split(file).map_err(failed)?;
    let turn = Turn::take(dir).map_err(failed)?;
    if check(file, host, blob)? {
        return Ok(());
    }
    let mut text = read(file).map_err(failed)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&entry(host, blob).map_err(failed)?);
    turn.write(name, text.as_bytes()).map_err(failed)
}

/// Pins the key `blob` (SSH wire format) that a new `host` was given.
///
/// # Errors
/// Another key is pinned, or the file cannot be written.
pub fn pin(file: &Path, host: &str, blob: &[u8]) -> Result<(), Error> {
    check_or_pin(file, host, blob)
}

/// Whether a key of `host` is pinned.
///
/// # Errors
/// The file cannot be read.
pub fn is_pinned(file: &Path, host: &str) -> io::Result<bool> {
    Ok(read(file)?.lines().any(|line| key_of(line, host).is_some()))
}

/// Whether `key`, in base64, is a pinned one of `host`. A file that cannot be read pins nothing.
pub fn is_key(file: &Path, host: &str, key: &str) -> bool {
    read(file).is_ok_and(|text| text.lines().any(|line| key_of(line, host) == Some(key)))
}

/// Removes the pinned keys of `host`, because the host itself is gone or is made anew; says whether there were any.
///
/// # Errors
/// The file cannot be read or replaced.
pub fn forget(file: &Path, host: &str) -> io::Result<bool> {
    let (dir, name) = durable::split(file)?;
    if !is_pinned(file, host)? {
        return Ok(false);
    }
    let turn = Turn::take(dir)?;
    let text = read(file)?;
    let kept: String = text.split_inclusive('\n').filter(|line| key_of(line, host).is_none()).collect();
    turn.write(name, kept.as_bytes())?;
    Ok(kept != text)
}

/// Whether `blob` is pinned for `host`; false when nothing is.
fn check(file: &Path, host: &str, blob: &[u8]) -> Result<bool, Error> {
    let text = read(file).map_err(|source| Error::KnownHosts { file: file.to_owned(), source })?;
    let offered = STANDARD.encode(blob);
    let pinned = text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, key_of(line, host)?)));
    let mut other = None;
    for (line, key) in pinned {
        if key == offered {
            return Ok(true);
        }
        other.get_or_insert((line, key));
    }
    let Some((line, key)) = other else { return Ok(false) };
    let old = STANDARD.decode(key).map_or_else(|_| "an unreadable key".to_owned(), |key| fingerprint(&key));
    Err(Error::HostKeyChanged {
        host: host.to_owned(),
        old,
        new: fingerprint(blob),
        file: file.to_owned(),
        line,
    })
}

/// The base64 key of a line that lists `host` in plain text; comments, markers and hashed names never match.
fn key_of<'a>(line: &'a str, host: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    let (hosts, _algorithm, key) = (words.next()?, words.next()?, words.next()?);
    hosts.split(',').any(|name| name == host).then_some(key)
}

/// The line that pins `blob`, whose first field is the algorithm's name (a length of four bytes, then the text).
fn entry(host: &str, blob: &[u8]) -> io::Result<String> {
    let algorithm = blob.split_first_chunk().and_then(|(length, rest)| {
        let name = rest.get(..u32::from_be_bytes(*length) as usize)?;
        std::str::from_utf8(name).ok().filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
    });
    let algorithm = algorithm.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{host} offered a host key that is not in SSH format"),
        )
    })?;
    Ok(format!("{host} {algorithm} {}\n", STANDARD.encode(blob)))
}

/// The fingerprint as `ssh-keygen -l` shows it.
fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, blob)))
}

/// The file's text; a missing file is an empty one.
fn read(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A key blob in wire format whose content is `byte` 32 times.
    fn blob(byte: u8) -> Vec<u8> {
        let mut blob = vec![0, 0, 0, 11];
        blob.extend_from_slice(b"ssh-ed25519");
        blob.extend_from_slice(&[0, 0, 0, 32]);
        blob.extend_from_slice(&[byte; 32]);
        blob
    }

    #[test]
    fn the_first_key_is_pinned_and_another_is_refused_with_place_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        // Neither a comment, nor another host, nor a name that merely begins alike is taken for host m.
        fs::write(&file, "# lab\nmm ssh-ed25519 AAAA\ns,m2 ssh-ed25519 AAAA").unwrap();
        check_or_pin(&file, "m", &blob(1)).unwrap();
        check_or_pin(&file, "m", &blob(1)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 4);

        let error = check_or_pin(&file, "m", &blob(2)).unwrap_err();

        let text = error.to_string();
        let place = format!("{}:4", file.display());
        for part in ["host m", &fingerprint(&blob(1)), &fingerprint(&blob(2)), &place, "ssh-keygen -R m"] {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 4, "a refused key must not be stored");
    }

    #[test]
    fn a_host_that_was_made_anew_is_forgotten_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        assert!(!forget(&file, "m").unwrap());
        check_or_pin(&file, "m", &blob(1)).unwrap();
        check_or_pin(&file, "s", &blob(2)).unwrap();
        assert!(forget(&file, "m").unwrap());
        check_or_pin(&file, "m", &blob(3)).unwrap();
        assert!(check_or_pin(&file, "s", &blob(3)).is_err());
    }

    #[test]
    fn hosts_that_connect_at_the_same_time_are_all_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        thread::scope(|scope| {
            for byte in 0..16 {
                let file = &file;
                scope.spawn(move || check_or_pin(file, &format!("h{byte}"), &blob(byte)).unwrap());
            }
        });
        assert_eq!(read(&file).unwrap().lines().count(), 16);
    }

    #[test]
    fn a_blob_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        for bad in [&b""[..], b"\0\0", b"\0\0\0\x20short", b"\xff\xff\xff\xffx", b"\0\0\0\x03a\nb"] {
            assert!(check_or_pin(&file, "m", bad).is_err(), "{bad:?}");
        }
        assert!(!file.exists());
    }
}
