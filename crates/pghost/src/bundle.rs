//! `bundle COMMAND ...`: what hosts without this program do by tar, perl, install and sha256sum, in a fifth of the time that those
//! take an emulated machine to start.
//!   unpack STAGE FOLDER...       empties STAGE, makes the other folders, and unpacks the tar stream on its input into STAGE
//!   sums PATH...                 as sha256sum
//!   files LIST NEW OLD PHASE...  puts the files of a bundle where they belong: the same as `files.pl` of the bundle, with the same
//!                                input and output. See there for what phases are, and for the lists in the current folder that it
//!                                reads. LIST is the list of files that get their names, NEW the suffix of those that wait for it,
//!                                OLD the folder for those that were replaced. And one list more, `at-hand`: number and path of
//!                                what is on this host already, and did not come with the bundle.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    env, fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// A tar stream is made of blocks of so many bytes.
const BLOCK: usize = 512;

/// Does it, for the arguments of this process, and returns what it says.
///
/// # Errors
/// What the first thing was that could not be done. Files that wait for their names are gone then.
pub fn bundle() -> io::Result<Vec<u8>> {
    let mut arguments = env::args().skip(1);
    let usage =
        || failed("usage", "bundle unpack STAGE FOLDER..., sums PATH... or files LIST NEW OLD PHASE...");
    let command = arguments.next().ok_or_else(usage)?;
    // As a shell that runs as a service has it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match command.as_str() {
        "unpack" => {
            let stage = arguments.next().ok_or_else(usage)?;
            unpack(Path::new(&stage), arguments, &mut io::stdin().lock()).map(|()| Vec::new())
        }
        "sums" => Ok(sums(arguments).into_bytes()),
        "files" => {
            let mut next = || arguments.next().ok_or_else(usage);
            let (list, new, old) = (next()?.into(), next()?, next()?.into());
            Bundle::read(PathBuf::new(), list, new, old)?.go_through(arguments)
        }
        _ => Err(usage()),
    }
}

fn unpack<R: io::Read>(stage: &Path, folders: impl Iterator<Item = String>, from: &mut R) -> io::Result<()> {
    match fs::remove_dir_all(stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(stage.display(), error)),
        _ => {}
    }
    for folder in [stage.to_owned()].into_iter().chain(folders.map(PathBuf::from)) {
        make(&folder, 0o700)?;
    }
    let cut_short = || failed("input", "it is no tar stream, or ends too early");
    loop {
        let mut header = [0; BLOCK];
        from.read_exact(&mut header).map_err(|_| cut_short())?;
        if header == [0; BLOCK] {
            return io::copy(from, &mut io::sink()).map(drop);
        }
        let text = |at: std::ops::Range<usize>| {
            let field = header[at].split(|byte| *byte == 0).next()?;
            std::str::from_utf8(field).ok().map(str::trim)
        };
        let name =
            text(0..100).filter(|name| !name.is_empty() && !name.contains('/')).ok_or_else(cut_short)?;
        let size =
            text(124..136).and_then(|size| usize::from_str_radix(size, 8).ok()).ok_or_else(cut_short)?;
        let path = stage.join(name);
        let copied = io::copy(&mut from.by_ref().take(size as u64), &mut private(&path)?);
        if at(&path, copied)? != size as u64 {
            return Err(cut_short());
        }
        let rest = size.next_multiple_of(BLOCK) - size;
        from.read_exact(&mut [0; BLOCK][..rest]).map_err(|_| cut_short())?;
    }
}

/// A line for each file that can be read.
fn sums(paths: impl Iterator<Item = String>) -> String {
    let sum = |path: String| {
        let mut sum = Sha256::new();
        io::copy(&mut fs::File::open(&path).ok()?, &mut sum).ok()?;
        let hex: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{hex}  {path}\n"))
    };
    paths.filter_map(sum).collect()
}

struct Bundle {
    /// Where the lists and the files are.
    stage: PathBuf,
    list: PathBuf,
    new: String,
    old: PathBuf,
    entries: Vec<Entry>,
}

/// A line of the list `files`.
struct Entry {
    number: String,
    owner: String,
    group: String,
    mode: u32,
    /// A handler reads it.
    is_kept: bool,
    path: PathBuf,
    /// Where its content is, if it did not come with the bundle.
    at_hand: Option<PathBuf>,
}

impl Entry {
    /// `at_hand` has places by numbers.
    fn parse(line: &str, at_hand: &HashMap<&str, &str>) -> io::Result<Self> {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let [number, owner, group, mode, kept, path] = words[..] else {
            return Err(failed("files", format!("cannot read `{line}`")));
        };
        Ok(Self {
            number: number.to_owned(),
            owner: owner.to_owned(),
            group: group.to_owned(),
            mode: u32::from_str_radix(mode, 8).map_err(|error| failed(path, error))?,
            is_kept: kept == "1",
            path: path.into(),
            at_hand: at_hand.get(number).map(PathBuf::from),
        })
    }
}

/// What a file was before, to be put back.
struct Was {
    content: Vec<u8>,
    about: fs::Metadata,
}

impl Bundle {
    fn read(stage: PathBuf, list: PathBuf, new: String, old: PathBuf) -> io::Result<Self> {
        let lines = lines_if_any(&stage.join("files"))?;
        let at_hand = lines_if_any(&stage.join("at-hand"))?;
        let at_hand = at_hand.iter().filter_map(|line| line.split_once(' ')).collect();
        let entries = lines.iter().map(|line| Entry::parse(line, &at_hand)).collect::<io::Result<_>>()?;
        Ok(Self { stage, list, new, old, entries })
    }

    fn go_through(&self, mut phases: impl Iterator<Item = String>) -> io::Result<Vec<u8>> {
        let mut said = Vec::new();
        while let Some(phase) = phases.next() {
            match phase.as_str() {
                "place" => self.or_drop(self.place())?,
                "commit" => said.extend(self.or_drop(self.commit())?),
                "drop" => self.drop(),
                "folders" => self.folders()?,
                "early" => self.early(&phases.next().unwrap_or_default())?,
                other => return Err(failed(other, "is no phase")),
            }
        }
        Ok(said)
    }

    fn waiting(&self) -> PathBuf {
        with_suffix(&self.list, &self.new)
    }

    fn beside(&self, path: &Path) -> PathBuf {
        with_suffix(path, &self.new)
    }

    fn or_drop<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|_| self.drop())
    }

    /// Makes folders, or gives them to whom they belong.
    fn folders(&self) -> io::Result<()> {
        for line in lines_if_any(&self.stage.join("folders"))? {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            let [owner, group, mode, path] = words[..] else {
                return Err(failed("folders", format!("cannot read `{line}`")));
            };
            let path = Path::new(path);
            let (uid, gid) = owner_of(path, owner, group)?;
            let mode = u32::from_str_radix(mode, 8).map_err(|error| failed(path.display(), error))?;
            make(path, 0o755)?;
            at(path, std::os::unix::fs::chown(path, Some(uid), Some(gid)))?;
            at(path, fs::set_permissions(path, fs::Permissions::from_mode(mode)))?;
        }
        Ok(())
    }

    /// One file, at once.
    fn early(&self, number: &str) -> io::Result<()> {
        let entry = self.entries.iter().find(|entry| entry.number == number);
        let entry = entry.ok_or_else(|| failed("early", format!("there is no file {number}")))?;
        self.write_new(entry)?;
        at(&entry.path, fs::rename(self.beside(&entry.path), &entry.path))
    }

    /// A list of an earlier run must not bring candidates in that are not validated yet. The new one is there before its files
    /// are: should this end here, the next facts know them.
    fn place(&self) -> io::Result<()> {
        make(above(&self.list), 0o755)?;
        let _ = fs::remove_file(&self.list);
        let list: String = self.entries.iter().map(|entry| format!("{}\n", entry.path.display())).collect();
        at(&self.waiting(), private(&self.waiting())?.write_all(list.as_bytes()))?;
        self.entries.iter().try_for_each(|entry| self.write_new(entry))
    }

    fn write_new(&self, entry: &Entry) -> io::Result<()> {
        let Entry { owner, group, path, .. } = entry;
        let (uid, gid) = owner_of(path, owner, group)?;
        make(above(path), 0o755)?;
        let new = self.beside(path);
        // What is at hand needs no copy: it is there under one more name, if it is as it should be.
        if let Some(content) = &entry.at_hand {
            let about = at(content, content.metadata())?;
            let _ = fs::remove_file(&new);
            let is_so = about.mode() & 0o7777 == entry.mode && (about.uid(), about.gid()) == (uid, gid);
            if is_so && fs::hard_link(content, &new).is_ok() {
                return Ok(());
            }
        }
        let content =
            entry.at_hand.clone().unwrap_or_else(|| self.stage.join(format!("file.{}", entry.number)));
        let mut from = at(&content, fs::File::open(&content))?;
        fresh(&new, &mut from, entry.mode, uid, gid)
    }

    /// Files that handlers read are kept as they were. Those that an earlier run kept are older, and stay.
    fn keep(&self, path: &Path) -> io::Result<()> {
        let kept = self.old.join(path.strip_prefix("/").unwrap_or(path));
        let Ok(about) = path.symlink_metadata() else { return Ok(()) };
        if kept.symlink_metadata().is_ok() {
            return Ok(());
        }
        make(above(&kept), 0o700)?;
        if about.is_symlink() {
            return at(&kept, std::os::unix::fs::symlink(fs::read_link(path)?, &kept));
        }
        if !about.is_file() {
            return Ok(());
        }
        let mut from = at(path, fs::File::open(path))?;
        fresh(&kept, &mut from, about.mode() & 0o7777, about.uid(), about.gid())
    }

    /// What stands where files belong is read before the first is renamed; after that only a power cut comes between, and the boot
    /// finishes what it left. A file that got its name before its content was on the disk would be empty after a power cut. The
    /// list gets its name before they do, and loses it after they did: names reach the disk in order.
    fn commit(&self) -> io::Result<Vec<u8>> {
        for line in lines(&self.stage.join("notes"))? {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let [how, path, text] = words[..] else {
                return Err(failed("notes", format!("cannot read `{line}`")));
            };
            let mut options = fs::OpenOptions::new();
            options.create(true).mode(0o600).append(how == ">>");
            if how == ">" {
                options.write(true).truncate(true);
            }
            at(path.as_ref(), options.open(path).and_then(|mut file| writeln!(file, "{text}")))?;
        }
        for entry in self.entries.iter().filter(|entry| entry.is_kept) {
            self.keep(&entry.path)?;
        }
        let mut before = HashMap::new();
        for Entry { path, .. } in &self.entries {
            let Ok(about) = path.metadata() else { continue };
            if about.is_dir() && !path.is_symlink() {
                return Err(failed(path.display(), "Is a directory"));
            }
            // What is no file, like a pipe, is replaced and cannot be put back; to open it might wait for ever.
            if about.is_file() {
                before.insert(path, Was { content: at(path, fs::read(path))?, about });
            }
        }
        for place in [Path::new("/"), above(&self.list)] {
            at(place, sync(place))?;
        }
        at(&self.list, fs::rename(self.waiting(), &self.list))?;
        for (count, Entry { path, .. }) in self.entries.iter().enumerate() {
            let Err(error) = fs::rename(self.beside(path), path) else { continue };
            let why = failed(path.display(), error);
            for Entry { path, .. } in &self.entries[..count] {
                self.put_back(path, before.get(path)).map_err(|error| failed(&why, error))?;
            }
            sync(Path::new("/"))?;
            return Err(why);
        }
        at(&self.list, fs::remove_file(&self.list))?;
        let said = |entry: &Entry| {
            format!("{{\"event\":\"done\",\"kind\":\"file\",\"item\":\"{}\"}}\n", entry.path.display())
        };
        Ok(self.entries.iter().map(said).collect::<String>().into_bytes())
    }

    fn put_back(&self, path: &Path, was: Option<&Was>) -> io::Result<()> {
        let Some(Was { content, about }) = was else { return fs::remove_file(path) };
        let new = self.beside(path);
        fresh(&new, &mut content.as_slice(), about.mode() & 0o7777, about.uid(), about.gid())?;
        at(path, fs::rename(new, path))
    }

    fn drop(&self) {
        let waiting = self.entries.iter().map(|entry| self.beside(&entry.path));
        for path in waiting.chain([self.waiting(), self.list.clone()]) {
            // What is not there need not go.
            let _ = fs::remove_file(path);
        }
    }
}

/// The numbers of those to whom something should belong.
fn owner_of(path: &Path, owner: &str, group: &str) -> io::Result<(u32, u32)> {
    let unknown = |kind: &str, name: &str| failed(path.display(), format!("there is no {kind} {name}"));
    let uid = id("/etc/passwd", owner)?.ok_or_else(|| unknown("user", owner))?;
    Ok((uid, id("/etc/group", group)?.ok_or_else(|| unknown("group", group))?))
}

/// The number of a user or group. Those of Debian's packages and of roles are in these files, and whatever else may know some is
/// not linked into a static program.
fn id(file: &str, name: &str) -> io::Result<Option<u32>> {
    let found = |line: &&str| line.split(':').next() == Some(name);
    let text = at(file.as_ref(), fs::read_to_string(file))?;
    Ok(text.lines().find(found).and_then(|line| line.split(':').nth(2)?.parse().ok()))
}

/// The same of a file that need not be there.
fn lines_if_any(file: &Path) -> io::Result<Vec<String>> {
    if file.exists() { lines(file) } else { Ok(Vec::new()) }
}

fn lines(file: &Path) -> io::Result<Vec<String>> {
    let text = at(file, fs::read_to_string(file))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The folder and those above it.
fn make(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    at(folder, fs::DirBuilder::new().recursive(true).mode(mode).create(folder))
}

/// A new file, whatever was there.
fn fresh<R: io::Read>(path: &Path, content: &mut R, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = private(path)?;
    at(path, io::copy(content, &mut file))?;
    at(path, std::os::unix::fs::fchown(&file, Some(uid), Some(gid)))?;
    at(path, file.set_permissions(fs::Permissions::from_mode(mode)))
}

/// A file that nobody else may read, written from its beginning.
fn private(path: &Path) -> io::Result<fs::File> {
    at(path, fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path))
}

fn sync(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(path)?)?)
}

fn above(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// With the place in what is said of an error.
fn at<T>(path: &Path, done: io::Result<T>) -> io::Result<T> {
    done.map_err(|error| failed(path.display(), error))
}

fn failed(what: impl fmt::Display, why: impl fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {why}"))
}
