//! `seed-cluster DIRECTORY [SEED]`: makes the data directory that initdb made with the image that of a cluster of its own.
//!
//! initdb takes an emulated machine seven seconds, and its result is always the same but for one number: the system identifier, by
//! which servers tell whose WAL they have. So initdb ran when the image was made; this gives what it made another identifier, which
//! is in the control file and in the first page of each WAL file, and prints a seed: that, a dot, and the one that initdb gave. The
//! standby of a cluster that was made in this way is made in the same way, with the seed of its primary: their directories are the
//! same then, to the last byte, and the standby is a base backup that is as old as the image. It has to be the same image: there is no
//! standby of what another run of initdb made.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    time::SystemTime,
};

/// Where the sum of a control file can be: after a struct of so many bytes, which differs between versions.
const SUM_AT: std::ops::Range<usize> = 200..480;
/// A page of WAL begins with a magic number, and with flags, of which this one says that the identifier follows.
const LONG_HEADER: u16 = 2;
/// At which byte it is then.
const IN_WAL: usize = 24;

/// Does it, for the arguments of this process, and returns the seed as a line.
///
/// # Errors
/// The directory is not one that a server of PostgreSQL left when it was shut down; or an argument is wrong.
pub fn seed_cluster() -> io::Result<String> {
    let mut arguments = env::args().skip(1);
    let directory = arguments.next().ok_or_else(|| invalid("usage: seed-cluster DIRECTORY [SEED]"))?;
    let seed = arguments.next().map(|text| {
        parse(&text).ok_or_else(|| {
            invalid(&format!("`{text}` is no seed: two system identifiers with a dot between"))
        })
    });
    let (identifier, origin) = match seed.transpose()? {
        Some((identifier, origin)) => (identifier, Some(origin)),
        None => (new_identifier()?, None),
    };
    let origin = give(Path::new(&directory), identifier, origin)?;
    Ok(format!("{identifier}.{origin}\n"))
}

fn parse(seed: &str) -> Option<(u64, u64)> {
    let (identifier, origin) = seed.split_once('.')?;
    Some((identifier.parse().ok()?, origin.parse().ok()?))
}

/// As PostgreSQL makes them: the time, and what tells two of the same microsecond apart.
fn new_identifier() -> io::Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    let mut random = [0; 2];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let random = u64::from(u16::from_le_bytes(random)) & 0xFFF;
    Ok(now.as_secs() << 32 | u64::from(now.subsec_micros()) << 12 | random)
}

/// Gives it that identifier, and tells which one it had: that has to be `origin`, if there is one.
fn give(directory: &Path, identifier: u64, origin: Option<u64>) -> io::Result<u64> {
    let control = directory.join("global/pg_control");
    let mut bytes = fs::read(&control)?;
    let unknown = || invalid(&format!("{} is of a kind that is not known", control.display()));
    let sum_at = sum_at(&bytes).ok_or_else(unknown)?;
    let old: [u8; 8] = bytes[..8].try_into().map_err(io::Error::other)?;
    let had = u64::from_le_bytes(old);
    if origin.is_some_and(|origin| origin != had) {
        return Err(invalid(&format!("{} is not of the same image as the primary", directory.display())));
    }
    bytes[..8].copy_from_slice(&identifier.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..sum_at]);
    bytes[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
    let mut found = false;
    for file in fs::read_dir(directory.join("pg_wal"))? {
        let file = file?;
        if !file.file_type()?.is_file() {
            continue;
        }
        let segment = fs::OpenOptions::new().read(true).write(true).open(file.path())?;
        let mut header = [0; IN_WAL + 8];
        segment.read_exact_at(&mut header, 0)?;
        let flags = u16::from_le_bytes([header[2], header[3]]);
        if flags & LONG_HEADER == 0 || header[IN_WAL..] != old {
            return Err(invalid(&format!("{} is not WAL of this cluster", file.path().display())));
        }
        segment.write_all_at(&identifier.to_le_bytes(), IN_WAL as u64)?;
        found = true;
    }
    if !found {
        return Err(invalid(&format!("there is no WAL in {}/pg_wal", directory.display())));
    }
    // Last, because it is what the rest is compared with.
    fs::OpenOptions::new().write(true).open(&control)?.write_all(&bytes)?;
    Ok(had)
}

/// The sum is the last field of the struct: it is where it fits what is before it.
fn sum_at(control: &[u8]) -> Option<usize> {
    let sum = |at: usize| Some(u32::from_le_bytes(control.get(at..at + 4)?.try_into().ok()?));
    SUM_AT.step_by(4).find(|at| sum(*at).is_some_and(|sum| sum == crc32c::crc32c(&control[..*at])))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control file as it is with that identifier, and WAL.
    fn data_directory(identifier: u64, wal_of: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut control = [7; 8192];
        control[..8].copy_from_slice(&identifier.to_le_bytes());
        let sum = crc32c::crc32c(&control[..288]);
        control[288..292].copy_from_slice(&sum.to_le_bytes());
        let mut wal = [9; 8192];
        wal[2..4].copy_from_slice(&LONG_HEADER.to_le_bytes());
        wal[IN_WAL..IN_WAL + 8].copy_from_slice(&wal_of.to_le_bytes());
        for name in ["global", "pg_wal", "pg_wal/archive_status"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("global/pg_control"), control).unwrap();
        fs::write(folder.path().join("pg_wal/000000010000000000000001"), wal).unwrap();
        folder
    }

    fn files(folder: &tempfile::TempDir) -> [Vec<u8>; 2] {
        ["global/pg_control", "pg_wal/000000010000000000000001"]
            .map(|file| fs::read(folder.path().join(file)).unwrap())
    }

    #[test]
    fn it_is_as_if_initdb_had_given_that_identifier() {
        let folder = data_directory(11, 11);
        assert_eq!(give(folder.path(), 1 << 63 | 5, None).unwrap(), 11);
        let wanted = data_directory(1 << 63 | 5, 1 << 63 | 5);
        assert_eq!(files(&folder), files(&wanted));
    }

    #[test]
    fn a_standby_of_another_image_is_refused_and_nothing_is_changed() {
        let folder = data_directory(11, 11);
        let error = give(folder.path(), 5, Some(12)).unwrap_err().to_string();
        assert!(error.contains("not of the same image"), "{error}");
        assert_eq!(files(&folder), files(&data_directory(11, 11)));
        assert_eq!(give(folder.path(), 5, Some(11)).unwrap(), 11);
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let folder = data_directory(11, 12);
        let error = give(folder.path(), 5, None).unwrap_err().to_string();
        assert!(error.contains("is not WAL of this cluster"), "{error}");
        fs::write(folder.path().join("global/pg_control"), [1; 8192]).unwrap();
        let error = give(folder.path(), 5, None).unwrap_err().to_string();
        assert!(error.contains("of a kind that is not known"), "{error}");
        assert_eq!(parse("5.11"), Some((5, 11)));
        assert_eq!((parse("5"), parse("5.x")), (None, None));
    }
}
