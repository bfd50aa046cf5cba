//! Takes the kernel proper out of a packaged one.
//!
//! QEMU starts an uncompressed kernel directly, at its PVH entry. Under emulation that saves the seconds it takes to
//! decompress one.

use std::path::Path;

use super::Error;

/// Offsets of the boot protocol, see Documentation/arch/x86/boot.rst of the kernel.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first version of the protocol with a payload.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;

/// How each format begins, and the program that reads it.
const FORMATS: [(&[u8], &str); 5] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], "xz"),
    (&[0x1f, 0x8b], "gzip"),
    (b"BZh", "bzip2"),
];

/// The compressed kernel inside a packaged one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    /// The program that decompresses it from a file to standard output, with `-dc`.
    pub tool: &'static str,
    /// What to decompress.
    pub bytes: &'a [u8],
}

/// Finds the payload of `image`, the content of the file `path`.
pub(super) fn payload<'a>(image: &'a [u8], path: &Path) -> Result<Payload<'a>, Error> {
    find(image).map_err(|cause| Error::Kernel { path: path.to_owned(), cause: cause.to_owned() })
}

fn find(image: &[u8]) -> Result<Payload<'_>, &'static str> {
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Err("it has no Linux boot header");
    }
    let version = image.get(VERSION..VERSION + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if version.is_none_or(|version| version < VERSION_WITH_PAYLOAD) {
        return Err("its boot protocol is too old");
    }
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // Zero means four, for reasons of 1991.
    let sectors = usize::from(image[SETUP_SECTORS]);
    let setup = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
    let bytes = number(PAYLOAD_OFFSET)
        .zip(number(PAYLOAD_LENGTH))
        .and_then(|(offset, length)| {
            let begin = setup.checked_add(offset)?;
            image.get(begin..begin.checked_add(length)?)
        })
        .ok_or("its payload lies outside the file")?;
    let (_, tool) =
        FORMATS.iter().find(|(magic, _)| bytes.starts_with(magic)).ok_or("its compression is unknown")?;
    // The build of the kernel appends the size, except where the format has it already.
    let bytes = if *tool == "gzip" { bytes } else { &bytes[..bytes.len().saturating_sub(4)] };
    Ok(Payload { tool, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A boot header with two sectors of setup and `payload` 16 bytes after it.
    fn image(payload: &[u8], length: u32) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[SETUP_SECTORS] = 2;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn the_payload_is_found_without_the_appended_size() {
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 9, 9, 9, 9];
        assert_eq!(find(&image(&zstd, 11)), Ok(Payload { tool: "zstd", bytes: &zstd[..7] }));
        let gzip = [0x1f, 0x8b, 8, 0, 5, 6, 7];
        assert_eq!(find(&image(&gzip, 7)), Ok(Payload { tool: "gzip", bytes: &gzip }));
    }

    #[test]
    fn what_is_no_kernel_is_refused_and_never_read_beyond_its_end() {
        assert_eq!(find(b"short"), Err("it has no Linux boot header"));
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 9];
        assert_eq!(find(&image(&zstd, 9)), Err("its payload lies outside the file"));
        assert_eq!(find(&image(&zstd, u32::MAX)), Err("its payload lies outside the file"));
        assert_eq!(find(&image(b"\x7fELF....", 8)), Err("its compression is unknown"));
        assert_eq!(find(&image(&[], 0)), Err("its compression is unknown"));
        assert_eq!(find(&image(b"BZh", 3)), Ok(Payload { tool: "bzip2", bytes: b"" }));
        let mut old = image(&zstd, 8);
        old[VERSION] = 7;
        assert_eq!(find(&old), Err("its boot protocol is too old"));
        for length in 0..old.len() {
            let _ = find(&image(&zstd, 8)[..length]);
        }
    }
}
