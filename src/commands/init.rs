//! `pgprov init`: a commented topology to start from.

use std::{fs::OpenOptions, io::Write as _};

use crate::{
    cli::Init,
    error::{Error, Result},
    ui::Ui,
};

/// Writes the starting topology, never over an existing file.
///
/// # Errors
/// The file exists or cannot be written.
pub fn run(ui: &Ui, args: &Init) -> Result {
    let file = args.file.display();
    let mut out = OpenOptions::new().write(true).create_new(true).open(&args.file).map_err(|error| {
        Error::failed(format!("cannot write {file}: {error}"))
            .hint("give another name: pgprov init NAME.yaml")
    })?;
    // The lab is called like its file, as far as that makes a name.
    let stem = args.file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let letters: String =
        stem.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).take(15).collect();
    let name = letters.trim_start_matches(|c: char| c.is_ascii_digit());
    let name = if name.is_empty() { "lab" } else { name };
    out.write_all(pgplan::check::INIT.replace("NAME", name).as_bytes())?;
    ui.say(&format!("Wrote {file}. Next: pgprov validate {file}, pgprov up {file}"));
    Ok(())
}
