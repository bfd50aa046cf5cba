//! Takes a stock cloud image: downloaded once, resumed when cut, verified before anyone can use it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::cache::{Meta, download_name, sha256_file};
use super::error::io_error;
use super::tool::{Run, Tools};
use super::{Artifact, Cache, Error, Progress};

const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long one request may take; the next one goes on where it ended.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The same when the server can only send the whole file.
const WHOLE_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// Requests in a row without a byte, after which it is given up.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const CHUNK: usize = 256 * 1024;

/// The format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// QEMU's own.
    Qcow2,
    /// Sector by sector.
    Raw,
}

/// A disk image somewhere else.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// http, https or file.
    pub url: &'a str,
    /// Of the file at that address, 64 hexadecimal digits.
    pub sha256: &'a str,
    /// What the file is.
    pub format: Format,
}

/// Downloads an image, unless it is there already.
///
/// A connection that breaks is taken up again where it broke, also by a later run. The file is an image only after its
/// SHA-256 and its format have been verified; raw ones are converted to qcow2.
///
/// # Errors
/// The address, the network or the disk; [`Error::Checksum`] when it is not the file that was asked for, which is then
/// removed; [`Error::Disk`] when it is no disk image of that format, or refers to other files.
pub fn download(cache: &Cache, source: &Source<'_>, progress: &dyn Fn(Progress)) -> Result<Artifact, Error> {
    let name =
        download_name(source.sha256).ok_or_else(|| Error::NotSha256 { sha256: source.sha256.to_owned() })?;
    if let Some(image) = cache.find_download(source.sha256) {
        return Ok(image);
    }
    let turn = cache.turn(progress)?;
    if let Some(image) = cache.find_download(source.sha256) {
        return Ok(image);
    }
    let part = cache.dir().join(format!(".part-{name}"));
    match Place::of(source.url)? {
        Place::File(path) => copy(&path, &part, progress)?,
        Place::Server => Transfer::new(source.url, &part, progress).run()?,
    }
    verify(source, &part)?;

    let workshop = cache.workshop(&turn)?;
    let (disk, log) = (workshop.dir.join("disk.qcow2"), cache.dir().join("build.log"));
    let start = std::time::Instant::now();
    let tick = || progress(Progress::Phase { name: "disk", elapsed: start.elapsed() });
    let tools = Tools::new(log, &tick)?;
    inspect(source, &part, &tools, &workshop.dir.join("info.json"))?;
    match source.format {
        Format::Qcow2 => fs::rename(&part, &disk).map_err(io_error("rename", &part))?,
        Format::Raw => {
            let arguments =
                ["convert", "-f", "raw", "-O", "qcow2", &part.to_string_lossy(), &disk.to_string_lossy()];
            tools.run(&Run::new("convert the disk"), "qemu-img", &arguments)?;
            fs::remove_file(&part).map_err(io_error("remove", &part))?;
        }
    }
    let info = workshop.dir.join("info.json");
    let virtual_size = read_info(source, &info)?.virtual_size;
    fs::remove_file(&info).map_err(io_error("remove", &info))?;
    let disk_bytes = fs::metadata(&disk).map_err(io_error("read", &disk))?.len();
    // Of the qcow2 file as it lies here, as for every image; the name tells what was downloaded.
    let sha256 = match source.format {
        Format::Qcow2 => source.sha256.to_ascii_lowercase(),
        Format::Raw => sha256_file(&disk)?,
    };
    let url = Some(without_password(source.url));
    let meta = Meta {
        name,
        url,
        origin: source.sha256.to_ascii_lowercase(),
        disk: "disk.qcow2".to_owned(),
        sha256,
        disk_bytes,
        virtual_size,
        ..Meta::default()
    };
    cache.publish(workshop, meta)
}

/// Where an address leads.
enum Place {
    File(PathBuf),
    Server,
}

impl Place {
    fn of(url: &str) -> Result<Self, Error> {
        let refuse = |cause: &str| Error::Url { url: without_password(url), cause: cause.to_owned() };
        if url.starts_with("http://") || url.starts_with("https://") {
            return Ok(Self::Server);
        }
        let path = url
            .strip_prefix("file://")
            .ok_or_else(|| refuse("it must begin with http://, https:// or file:///"))?;
        let path = path.strip_prefix("localhost").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(refuse("a file address has three slashes: file:///path"));
        }
        let path = percent_decode_str(path).decode_utf8().map_err(|_| refuse("its path is not UTF-8"))?;
        Ok(Self::File(PathBuf::from(path.into_owned())))
    }
}

/// An address as it may be shown and kept.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((login, _)) => format!("{scheme}://{}", &rest[login.len() + 1..]),
        None => url.to_owned(),
    }
}

fn copy(from: &Path, to: &Path, progress: &dyn Fn(Progress)) -> Result<(), Error> {
    let mut input = File::open(from).map_err(io_error("open", from))?;
    let total = input.metadata().map_err(io_error("read", from))?.len();
    let mut output = File::create(to).map_err(io_error("create", to))?;
    let mut done = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = input.read(&mut buffer).map_err(io_error("read", from))?;
        if count == 0 {
            return Ok(());
        }
        output.write_all(&buffer[..count]).map_err(io_error("write", to))?;
        done += count as u64;
        progress(Progress::Bytes { done, total: Some(total) });
    }
}

/// How one request ended without an error of ours.
enum Ended {
    /// The file is complete.
    Complete,
    /// What arrived is kept; the cause is for the user, when it does not go on.
    Cut(String),
}

/// A download that goes on until the file is complete.
struct Transfer<'a> {
    url: &'a str,
    part: &'a Path,
    progress: &'a dyn Fn(Progress),
    agent: Agent,
    /// The server cannot begin in the middle: it gets the time for the whole.
    whole: bool,
}

impl<'a> Transfer<'a> {
    fn new(url: &'a str, part: &'a Path, progress: &'a dyn Fn(Progress)) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(REQUEST_LIMIT))
            .http_status_as_error(false)
            .user_agent(concat!("pgprov/", env!("CARGO_PKG_VERSION")));
        Self { url, part, progress, agent: config.build().into(), whole: false }
    }

    fn run(mut self) -> Result<(), Error> {
        let (mut attempts, mut pause) = (0, FIRST_PAUSE);
        loop {
            let before = self.done()?;
            let cause = match self.request(before)? {
                Ended::Complete => return Ok(()),
                Ended::Cut(cause) => cause,
            };
            let done = self.done()?;
            if done > before && !self.whole {
                (attempts, pause) = (0, FIRST_PAUSE);
                continue;
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                return Err(Error::Download { url: without_password(self.url), cause, attempts, done });
            }
            thread::sleep(pause);
            pause *= 2;
        }
    }

    /// Bytes that are there.
    fn done(&self) -> Result<u64, Error> {
        match fs::metadata(self.part) {
            Ok(meta) => Ok(meta.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io_error("read", self.part)(error)),
        }
    }

    fn request(&mut self, done: u64) -> Result<Ended, Error> {
        let limit = if self.whole { WHOLE_LIMIT } else { REQUEST_LIMIT };
        let mut request = self.agent.get(self.url).config().timeout_recv_body(Some(limit)).build();
        if done > 0 && !self.whole {
            request = request.header(header::RANGE, format!("bytes={done}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(ureq::Error::BadUri(cause)) => {
                return Err(Error::Url { url: without_password(self.url), cause });
            }
            Err(error) => return Ok(Ended::Cut(error.to_string())),
        };
        match response.status() {
            StatusCode::OK => {
                self.whole |= done > 0;
                self.receive(response, 0)
            }
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(done) => {
                self.receive(response, done)
            }
            // Longer than the file there, or the server's answer fits no question of ours: from the beginning.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                if range_total(&response) == Some(done) {
                    return Ok(Ended::Complete);
                }
                self.truncate(0)?;
                Ok(Ended::Cut(format!(
                    "the server has another file than before (status {})",
                    response.status()
                )))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Ok(Ended::Cut(format!("the server says {status}")))
            }
            status => Err(Error::Url {
                url: without_password(self.url),
                cause: format!("the server says {status}"),
            }),
        }
    }

    /// Appends the body at `from`, which is where the file ends or 0.
    fn receive(&self, response: Response<Body>, from: u64) -> Result<Ended, Error> {
        let mut file = self.truncate(from)?;
        let length = response.body().content_length();
        let total = length.map(|length| from + length);
        let mut body = response.into_body().into_reader();
        let mut done = from;
        let mut buffer = vec![0; CHUNK];
        loop {
            match body.read(&mut buffer) {
                Ok(0) if total.is_none_or(|total| done >= total) => return Ok(Ended::Complete),
                Ok(0) => return Ok(Ended::Cut("the connection was closed in the middle".to_owned())),
                Ok(count) => {
                    file.write_all(&buffer[..count]).map_err(io_error("write", self.part))?;
                    done += count as u64;
                    (self.progress)(Progress::Bytes { done, total });
                }
                Err(error) => return Ok(Ended::Cut(error.to_string())),
            }
        }
    }

    /// Opens the file for appending at `length`.
    fn truncate(&self, length: u64) -> Result<File, Error> {
        let file = OpenOptions::new().append(true).create(true).open(self.part);
        let file = file.map_err(io_error("open", self.part))?;
        file.set_len(length).map_err(io_error("truncate", self.part))?;
        Ok(file)
    }
}

fn content_range(response: &Response<Body>) -> Option<&str> {
    response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")
}

/// N of `Content-Range: bytes N-M/T`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    content_range(response)?.split_once('-')?.0.parse().ok()
}

/// T of `Content-Range: bytes */T`.
fn range_total(response: &Response<Body>) -> Option<u64> {
    content_range(response)?.split_once('/')?.1.parse().ok()
}

/// Removes what is not the file that was asked for.
fn verify(source: &Source<'_>, part: &Path) -> Result<(), Error> {
    let found = sha256_file(part)?;
    if found.eq_ignore_ascii_case(source.sha256) {
        return Ok(());
    }
    fs::remove_file(part).map_err(io_error("remove", part))?;
    let url = without_password(source.url);
    Err(Error::Checksum { url, wanted: source.sha256.to_ascii_lowercase(), found })
}

/// What `qemu-img info` says.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    format: String,
    backing_filename: Option<String>,
    #[serde(default)]
    format_specific: FormatSpecific,
}

#[derive(Default, Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: serde_json::Map<String, serde_json::Value>,
}

/// Writes what `qemu-img` knows of the disk to `info`; refuses a disk that would make QEMU open other files.
fn inspect(source: &Source<'_>, disk: &Path, tools: &Tools<'_>, info: &Path) -> Result<(), Error> {
    let refuse = |cause: String| Error::Disk { url: without_password(source.url), cause };
    let (name, disk) = (source.format.name(), disk.to_string_lossy());
    let arguments = ["info", "-f", name, "--output=json", &disk];
    tools.run(&Run { output: Some(info), ..Run::new("read the disk") }, "qemu-img", &arguments).map_err(
        |error| match error {
            Error::Step { tail, .. } => refuse(format!("it is no {name} image ({})", tail.trim())),
            other => other,
        },
    )?;
    let found = read_info(source, info)?;
    if found.format != name {
        return Err(refuse(format!("it is {}, not {name}", found.format)));
    }
    let other = found.backing_filename.or_else(|| {
        let file = found.format_specific.data.get("data-file")?;
        Some(file.as_str().unwrap_or("a data file").to_owned())
    });
    match other {
        Some(file) => Err(refuse(format!("it is not whole: it refers to `{file}`"))),
        None => Ok(()),
    }
}

fn read_info(source: &Source<'_>, info: &Path) -> Result<Info, Error> {
    let text = fs::read(info).map_err(io_error("read", info))?;
    serde_json::from_slice(&text).map_err(|error| Error::Disk {
        url: without_password(source.url),
        cause: format!("qemu-img describes it in a way unknown to us: {error}"),
    })
}

impl Format {
    /// As QEMU calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

#[cfg(test)]
mod tests;
