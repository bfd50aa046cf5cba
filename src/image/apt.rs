//! Where this machine gets its Debian packages from: an image is built from the same place.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::Error;
use super::error::io_error;

/// Names a Debian suite can have; how one tells the mirror of Debian from other sources.
const DEBIAN: [&str; 10] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// Settings of the machine's apt that an image build needs as well: how to reach the mirror, and what to make of its age.
const SETTINGS: [&str; 5] = [
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
];

/// One source of packages: one line, or one stanza.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    signed_by: Option<String>,
}

/// The lines of a sources.list for `suite`: the release, its updates and its security updates.
///
/// `mirror` takes the place of the machine's own for the first two. Security updates come from where the machine gets
/// its own, and are left out when it has none.
pub(super) fn sources_list(etc_apt: &Path, suite: &str, mirror: Option<&str>) -> Result<String, Error> {
    lines(&read(etc_apt)?, suite, mirror)
}

/// The machine's apt settings that matter here, as apt.conf.
pub(super) fn settings() -> Result<String, Error> {
    let output = Command::new("apt-config").arg("dump").output().map_err(|cause| Error::Tool {
        tool: "apt-config".to_owned(),
        purpose: "read the settings of apt",
        cause,
    })?;
    Ok(relevant(&String::from_utf8_lossy(&output.stdout)))
}

fn relevant(dump: &str) -> String {
    let wanted = |line: &&str| {
        SETTINGS.iter().any(|key| {
            // `Acquire::http::Proxy::HOST` is a setting, too.
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with("::"))
        })
    };
    dump.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

fn lines(sources: &[Source], suite: &str, mirror: Option<&str>) -> Result<String, Error> {
    let of = |security: bool| sources.iter().find(|source| source.serves_debian(security));
    let main = match mirror {
        Some(mirror) if is_usable(mirror) => deb(mirror, None),
        Some(mirror) => return Err(Error::Mirror { mirror: mirror.to_owned() }),
        None => of(false).and_then(Source::deb).ok_or(Error::NoMirror)?,
    };
    let mut text = format!("{main} {suite} main\n{main} {suite}-updates main\n");
    if let Some(security) = of(true).and_then(Source::deb) {
        text.push_str(&format!("{security} {suite}-security main\n"));
    }
    Ok(text)
}

impl Source {
    /// Whether it has a suite of Debian: a release, or its security updates.
    fn serves_debian(&self, security: bool) -> bool {
        let fits = |suite: &String| {
            let (release, is_security) = match suite.strip_suffix("-security") {
                Some(release) => (release, true),
                None => (suite.strip_suffix("-updates").unwrap_or(suite), false),
            };
            DEBIAN.contains(&release) && is_security == security
        };
        self.suites.iter().any(fits) && self.uri().is_some()
    }

    fn uri(&self) -> Option<&str> {
        self.uris.iter().map(String::as_str).find(|uri| is_usable(uri))
    }

    /// The beginning of a line for sources.list: type, options, address.
    fn deb(&self) -> Option<String> {
        self.uri().map(|uri| deb(uri, self.signed_by.as_deref()))
    }
}

fn deb(uri: &str, signed_by: Option<&str>) -> String {
    match signed_by {
        Some(key) => format!("deb [signed-by={key}] {uri}"),
        None => format!("deb {uri}"),
    }
}

fn is_usable(uri: &str) -> bool {
    // Not the build's own problem to quote: an address has no white space.
    ["http://", "https://", "file:///"].iter().any(|scheme| uri.starts_with(scheme))
        && !uri.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// All sources of a machine, in apt's order.
fn read(etc_apt: &Path) -> Result<Vec<Source>, Error> {
    let mut paths = vec![etc_apt.join("sources.list")];
    let parts = etc_apt.join("sources.list.d");
    if parts.is_dir() {
        let mut more = Vec::new();
        for entry in fs::read_dir(&parts).map_err(io_error("list", &parts))? {
            more.push(entry.map_err(io_error("list", &parts))?.path());
        }
        more.sort();
        paths.append(&mut more);
    }
    let mut sources = Vec::new();
    for path in paths {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => parse_lines,
            Some("sources") => parse_stanzas,
            _ => continue,
        };
        match fs::read_to_string(&path) {
            Ok(text) => sources.append(&mut parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &path)(error)),
        }
    }
    Ok(sources)
}

/// One-line format: `deb [option=value ...] uri suite component ...`.
fn parse_lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    // Not deb-src.
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?.to_owned(), words.next()?.to_owned());
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Source { uris: vec![uri], suites: vec![suite], signed_by: signed_by.and_then(foreign_key) })
}

/// deb822 format: stanzas of `Field: value` with continuation lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    kept.split(|line| line.trim().is_empty()).filter_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Option<Source> {
    let mut source = Source::default();
    let (mut is_deb, mut enabled) = (false, true);
    let mut field = String::new();
    for line in lines {
        let value = if line.starts_with([' ', '\t']) {
            line
        } else {
            let (name, value) = line.split_once(':')?;
            field = name.trim().to_ascii_lowercase();
            value
        };
        let words = || value.split_whitespace().map(str::to_owned);
        match field.as_str() {
            "types" => is_deb |= words().any(|word| word == "deb"),
            "uris" => source.uris.extend(words()),
            "suites" => source.suites.extend(words()),
            "enabled" => enabled = !words().any(|word| ["no", "false", "0"].contains(&word.as_str())),
            "signed-by" => source.signed_by = source.signed_by.or_else(|| foreign_key(value.trim())),
            _ => {}
        }
    }
    (is_deb && enabled).then_some(source)
}

/// The file of a key that is not Debian's own: that one mmdebstrap finds by itself, for every release.
fn foreign_key(path: &str) -> Option<String> {
    let name = Path::new(path).file_name()?.to_str()?;
    (path.starts_with('/') && !name.starts_with("debian-archive")).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "\
Types: deb
# a comment between fields
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: trixie
Components: main
";

    #[test]
    fn stanzas_give_release_updates_and_security() {
        let sources = parse_stanzas(STANZAS);
        assert_eq!(sources.len(), 2);
        assert_eq!(
            lines(&sources, "trixie", None).unwrap(),
            "deb https://mirror.example/debian trixie main\n\
             deb https://mirror.example/debian trixie-updates main\n\
             deb https://mirror.example/debian-security trixie-security main\n"
        );
    }

    #[test]
    fn lines_are_read_with_options_and_comments() {
        let sources = parse_lines(
            "# deb http://commented.example/debian bookworm main\n\
             deb-src http://source.example/debian bookworm main\n\
             deb cdrom:[Debian]/ bookworm main\n\
             deb [arch=amd64 signed-by=/etc/keys/vendor.gpg] https://vendor.example/apt stable-tools main\n\
             deb\t[ arch=amd64 signed-by=/etc/keys/site.gpg ] http://site.example/debian bookworm main contrib # ours\n",
        );
        assert_eq!(
            lines(&sources, "bookworm", None).unwrap(),
            "deb [signed-by=/etc/keys/site.gpg] http://site.example/debian bookworm main\n\
             deb [signed-by=/etc/keys/site.gpg] http://site.example/debian bookworm-updates main\n"
        );
    }

    #[test]
    fn a_mirror_of_the_topology_comes_first() {
        let sources = parse_stanzas(STANZAS);
        assert_eq!(
            lines(&sources, "trixie", Some("http://near.example/debian")).unwrap().lines().next().unwrap(),
            "deb http://near.example/debian trixie main"
        );
        for bad in ["near.example/debian", "ftp://near.example/", "http://a b", "http://a/\ndeb http://b/"] {
            assert!(matches!(lines(&sources, "trixie", Some(bad)), Err(Error::Mirror { .. })), "{bad}");
        }
    }

    #[test]
    fn a_machine_without_debian_needs_a_mirror() {
        let ubuntu = parse_lines("deb http://archive.example/ubuntu noble main\n");
        assert!(matches!(lines(&ubuntu, "trixie", None), Err(Error::NoMirror)));
        assert_eq!(lines(&ubuntu, "trixie", Some("file:///srv/debian")).unwrap().lines().count(), 2);
    }

    #[test]
    fn both_formats_are_found_under_etc() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        fs::write(dir.path().join("sources.list"), "deb http://one.example/debian trixie main\n").unwrap();
        fs::write(dir.path().join("sources.list.d/debian.sources"), STANZAS).unwrap();
        fs::write(
            dir.path().join("sources.list.d/old.list.save"),
            "deb http://old.example/debian trixie main\n",
        )
        .unwrap();
        let uris: Vec<_> = read(dir.path()).unwrap().into_iter().flat_map(|source| source.uris).collect();
        assert_eq!(
            uris,
            [
                "http://one.example/debian",
                "https://mirror.example/debian",
                "https://mirror.example/debian-security"
            ]
        );
    }

    #[test]
    fn settings_are_picked_from_apts_own_dump() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\n\
            Acquire::http::Proxy::local.example \"DIRECT\";\nAcquire::http::ProxyAutoDetect \"x\";\n\
            Acquire::Check-Valid-Until \"false\";\n";
        assert_eq!(
            relevant(dump),
            "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::http::Proxy::local.example \"DIRECT\";\n\
             Acquire::Check-Valid-Until \"false\";\n"
        );
    }
}
