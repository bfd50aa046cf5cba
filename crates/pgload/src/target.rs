//! Where to connect: libpq's connection strings, services, password files and environment variables.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

/// What is read from outside: environment variables and files.
pub trait Outside {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file that may not exist.
    fn file(&self, path: &Path) -> Option<String>;
}

/// The real environment.
pub struct Process;

impl Outside for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn file(&self, path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }
}

/// Which servers will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionAttrs {
    /// Any.
    #[default]
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that does not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is.
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

/// How far TLS goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// None.
    Disable,
    /// If the server can.
    #[default]
    Prefer,
    /// Always, whoever the server is.
    Require,
    /// The certificate must be signed by the root certificate.
    VerifyCa,
    /// And be made out to the host's name.
    VerifyFull,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name, address, or folder of the socket.
    pub name: String,
    /// Address to use instead of looking the name up.
    pub address: Option<std::net::IpAddr>,
    /// TCP port, or number of the socket.
    pub port: u16,
    /// Of this host, from the password file or for all.
    pub password: Option<String>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// A parsed connection string.
#[derive(Clone)]
pub struct Target {
    /// In the order in which they are tried.
    pub hosts: Vec<Host>,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// Which servers will do.
    pub session: SessionAttrs,
    /// How far TLS goes.
    pub ssl: SslMode,
    /// Certificates that servers' are checked against.
    pub root_certificate: Option<PathBuf>,
    /// For one host: look-up, connection, TLS, login and the check of its kind.
    pub connect_timeout: Duration,
    /// Shown in pg_stat_activity.
    pub application_name: String,
    /// Command-line options for the server.
    pub options: Option<String>,
}

/// Passwords are not printed.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "{}@{}/{}", self.user, hosts.join(","), self.database)
    }
}

/// Why a connection string is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Not of the form `key=value ...`.
    #[error("cannot read the connection string: {0}")]
    Syntax(String),
    /// A key that libpq does not know, or we do not support.
    #[error("connection option `{0}` is not supported")]
    Unknown(String),
    /// A value outside of what the key allows.
    #[error("connection option {key}: `{value}` is not one of {allowed}")]
    Value {
        /// Of the option.
        key: &'static str,
        /// As given.
        value: String,
        /// What would do.
        allowed: &'static str,
    },
    /// Lists of different lengths.
    #[error("connection options host and {0} have different numbers of entries")]
    Lengths(&'static str),
    /// A service that is in no file.
    #[error("there is no service `{0}` in the service files")]
    Service(String),
}

/// Connection options and the variables they are also taken from.
const OPTIONS: [(&str, &str); 13] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("service", "PGSERVICE"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
];
/// Known, but what they ask for is either always so or makes no difference here.
const IGNORED: [&str; 9] = [
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "channel_binding",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
];

type Options = BTreeMap<String, String>;

impl Target {
    /// From a connection string (URI or keywords) and what is outside; the string wins over the service it names, that
    /// over the environment.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(dsn: Option<&str>, outside: &dyn Outside) -> Result<Self, TargetError> {
        let mut options = match dsn {
            Some(uri) if uri.starts_with("postgres://") || uri.starts_with("postgresql://") => {
                parse_uri(uri)?
            }
            Some(keywords) if keywords.contains('=') => parse_keywords(keywords)?,
            Some(name) => Options::from([("dbname".to_owned(), name.to_owned())]),
            None => Options::new(),
        };
        let service = options.get("service").cloned().or_else(|| outside.variable("PGSERVICE"));
        if let Some(service) = service {
            for (key, value) in service_options(&service, outside)? {
                options.entry(key).or_insert(value);
            }
        }
        for (key, variable) in OPTIONS {
            if let Some(value) = outside.variable(variable) {
                options.entry(key.to_owned()).or_insert(value);
            }
        }
        if let Some(value) = outside.variable("PGOPTIONS") {
            options.entry("options".to_owned()).or_insert(value);
        }
        for key in options.keys() {
            let known = OPTIONS.iter().any(|(name, _)| name == key) || key == "options";
            if !known && !IGNORED.contains(&key.as_str()) {
                return Err(TargetError::Unknown(key.clone()));
            }
        }
        Self::from_options(&options, outside)
    }

    fn from_options(options: &Options, outside: &dyn Outside) -> Result<Self, TargetError> {
        let get = |key: &str| options.get(key).map(String::as_str);
        let me = || outside.variable("USER").or_else(|| outside.variable("LOGNAME"));
        let user = get("user").map(str::to_owned).or_else(me).unwrap_or_else(|| "postgres".to_owned());
        let database = get("dbname").unwrap_or(&user).to_owned();
        let mut hosts = parse_hosts(get("host"), get("hostaddr"), get("port"))?;
        let passwords = password_file(get("passfile"), outside);
        for host in &mut hosts {
            host.password = get("password")
                .map(str::to_owned)
                .or_else(|| password_for(&passwords, &host.name, host.port, &database, &user));
        }
        let seconds = get("connect_timeout").map(|text| match text.parse::<u64>() {
            Ok(seconds) => Ok(seconds),
            Err(_) => Err(value("connect_timeout", text, "whole seconds")),
        });
        Ok(Self {
            hosts,
            database,
            user,
            session: session(get("target_session_attrs").unwrap_or("any"))?,
            ssl: ssl(get("sslmode").unwrap_or("prefer"))?,
            // Where libpq looks when nobody says.
            root_certificate: get("sslrootcert").map(PathBuf::from).or_else(|| {
                home(outside, ".postgresql/root.crt").filter(|path| outside.file(path).is_some())
            }),
            connect_timeout: Duration::from_secs(seconds.transpose()?.filter(|s| *s > 0).unwrap_or(3)),
            application_name: get("application_name").unwrap_or("pgload").to_owned(),
            options: get("options").map(str::to_owned),
        })
    }
}

fn value(key: &'static str, value: &str, allowed: &'static str) -> TargetError {
    TargetError::Value { key, value: value.to_owned(), allowed }
}

fn session(text: &str) -> Result<SessionAttrs, TargetError> {
    Ok(match text {
        "any" => SessionAttrs::Any,
        "read-write" => SessionAttrs::ReadWrite,
        "read-only" => SessionAttrs::ReadOnly,
        "primary" => SessionAttrs::Primary,
        "standby" => SessionAttrs::Standby,
        "prefer-standby" => SessionAttrs::PreferStandby,
        other => {
            let allowed = "any, read-write, read-only, primary, standby, prefer-standby";
            return Err(value("target_session_attrs", other, allowed));
        }
    })
}

fn ssl(text: &str) -> Result<SslMode, TargetError> {
    Ok(match text {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        other => {
            return Err(value("sslmode", other, "disable, allow, prefer, require, verify-ca, verify-full"));
        }
    })
}

fn parse_hosts(
    names: Option<&str>,
    addresses: Option<&str>,
    ports: Option<&str>,
) -> Result<Vec<Host>, TargetError> {
    let names: Vec<&str> = names.or(addresses).unwrap_or("/var/run/postgresql").split(',').collect();
    let addresses: Vec<&str> = addresses.map(|all| all.split(',').collect()).unwrap_or_default();
    let ports: Vec<&str> = ports.unwrap_or("").split(',').collect();
    if !addresses.is_empty() && addresses.len() != names.len() {
        return Err(TargetError::Lengths("hostaddr"));
    }
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(TargetError::Lengths("port"));
    }
    let host = |(index, name): (usize, &&str)| {
        let address = match addresses.get(index).filter(|text| !text.is_empty()) {
            Some(text) => Some(text.parse().map_err(|_| value("hostaddr", text, "IP addresses"))?),
            None => None,
        };
        let port = match *ports.get(index).or(ports.first()).unwrap_or(&"") {
            "" => 5432,
            text => text.parse().map_err(|_| value("port", text, "numbers up to 65535"))?,
        };
        let name = if name.is_empty() { "/var/run/postgresql" } else { name };
        Ok(Host { name: name.to_owned(), address, port, password: None })
    };
    names.iter().enumerate().map(host).collect()
}

/// `key = value 'quoted value' ...` as libpq reads it.
fn parse_keywords(text: &str) -> Result<Options, TargetError> {
    let mut options = Options::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) =
            rest.split_once('=').ok_or_else(|| TargetError::Syntax(format!("`{rest}` has no `=`")))?;
        let mut chars = after.trim_start().chars();
        let mut value = String::new();
        let quoted = chars.as_str().starts_with('\'');
        if quoted {
            chars.next();
        }
        let mut closed = !quoted;
        while let Some(char) = chars.next() {
            match char {
                '\\' => value.extend(chars.next()),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                space if !quoted && space.is_whitespace() => break,
                other => value.push(other),
            }
        }
        if !closed {
            return Err(TargetError::Syntax(format!("the quote after `{}=` is not closed", key.trim())));
        }
        options.insert(key.trim().to_owned(), value);
        rest = chars.as_str().trim_start();
    }
    Ok(options)
}

fn parse_uri(uri: &str) -> Result<Options, TargetError> {
    let mut options = Options::new();
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let mut set = |key: &str, text: &str| {
        if !text.is_empty() {
            options.insert(key.to_owned(), decode(text)?);
        }
        Ok::<_, TargetError>(())
    };
    set("user", user)?;
    set("password", password)?;
    set("dbname", database)?;
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        // A colon inside of brackets belongs to an IPv6 address.
        let end = host.rfind(']').map_or(0, |at| at + 1);
        let (name, port) = match host[end..].split_once(':') {
            Some((more, port)) => (&host[..end + more.len()], port),
            None => (host, ""),
        };
        names.push(name.trim_start_matches('[').trim_end_matches(']'));
        ports.push(port);
    }
    if names != [""] {
        set("host", &names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        set("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, text) =
            pair.split_once('=').ok_or_else(|| TargetError::Syntax(format!("`{pair}` has no `=`")))?;
        options.insert(decode(key)?, decode(text)?);
    }
    Ok(options)
}

fn decode(text: &str) -> Result<String, TargetError> {
    let bad = || TargetError::Syntax("a percent sign is not followed by two hexadecimal digits".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(bad);
            bytes.push((digit()? * 16 + digit()?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn home(outside: &dyn Outside, name: &str) -> Option<PathBuf> {
    outside.variable("HOME").map(|home| Path::new(&home).join(name))
}

fn service_options(service: &str, outside: &dyn Outside) -> Result<Options, TargetError> {
    let user = outside.variable("PGSERVICEFILE").map(PathBuf::from);
    let user = user.or_else(|| home(outside, ".pg_service.conf"));
    let folder = outside.variable("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    for path in [user, Some(Path::new(&folder).join("pg_service.conf"))].into_iter().flatten() {
        let Some(text) = outside.file(&path) else { continue };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut inside = false;
        let mut found = None;
        for line in lines {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                inside = name == service;
                if inside {
                    found.get_or_insert_with(Options::new);
                }
            } else if let (true, Some((key, value)), Some(options)) =
                (inside, line.split_once('='), found.as_mut())
            {
                options.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
        if let Some(options) = found {
            return Ok(options);
        }
    }
    Err(TargetError::Service(service.to_owned()))
}

fn password_file(path: Option<&str>, outside: &dyn Outside) -> String {
    let path = path.map(PathBuf::from).or_else(|| home(outside, ".pgpass"));
    path.and_then(|path| outside.file(&path)).unwrap_or_default()
}

/// The password of the first line of a password file that fits.
fn password_for(file: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let host = if host.starts_with('/') { "localhost" } else { host };
    let wanted = [host, &port.to_string(), database, user];
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(char) = chars.next() {
            match char {
                '\\' => fields.last_mut()?.extend(chars.next()),
                ':' if fields.len() < 5 => fields.push(String::new()),
                other => fields.last_mut()?.push(other),
            }
        }
        let (password, place) = fields.split_last().filter(|(_, place)| place.len() == 4)?;
        let fits = place.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        fits.then(|| password.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(&'static [(&'static str, &'static str)]);

    impl Outside for Fake {
        fn variable(&self, name: &str) -> Option<String> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        }

        fn file(&self, path: &Path) -> Option<String> {
            self.variable(path.to_str()?)
        }
    }

    fn hosts(target: &Target) -> String {
        target.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn uris_and_keywords_say_the_same() {
        let outside = Fake(&[]);
        let uri = "postgresql://app:p%40ss@m:5433,s,[::1]:6000/wms?target_session_attrs=primary&sslmode=verify-full&connect_timeout=2";
        let words = "host=m,s,::1 port=5433,,6000 user=app password='p@ss' dbname = wms target_session_attrs=primary \
                     sslmode=verify-full connect_timeout=2";
        for text in [uri, words] {
            let target = Target::parse(Some(text), &outside).unwrap();
            assert_eq!(hosts(&target), "m:5433 s:5432 ::1:6000", "{text}");
            assert_eq!((target.user.as_str(), target.database.as_str()), ("app", "wms"));
            assert_eq!(target.hosts[1].password.as_deref(), Some("p@ss"));
            assert_eq!((target.session, target.ssl), (SessionAttrs::Primary, SslMode::VerifyFull));
            assert_eq!(target.connect_timeout, Duration::from_secs(2));
            assert!(!format!("{target:?}").contains("p@ss"));
        }
    }

    #[test]
    fn services_password_files_and_variables_fill_gaps_in_this_order() {
        let outside = Fake(&[
            ("PGSERVICE", "lab-rw"),
            ("PGUSER", "nobody"),
            ("PGPORT", "1"),
            ("HOME", "/h"),
            (
                "/etc/postgresql-common/pg_service.conf",
                "# x\n[other]\nhost=o\n[lab-rw]\nhost=m,s\nuser=app\ndbname=wms\n",
            ),
            ("/h/.pgpass", "m:*:wms:app:first\\:one\n*:1:*:*:second\n"),
        ]);
        let target = Target::parse(None, &outside).unwrap();
        assert_eq!(hosts(&target), "m:1 s:1");
        assert_eq!(target.user, "app");
        assert_eq!(target.hosts[0].password.as_deref(), Some("first:one"));
        assert_eq!(target.hosts[1].password.as_deref(), Some("second"));
        assert_eq!(Target::parse(Some("user=x"), &outside).unwrap().user, "x");
        assert_eq!(
            Target::parse(Some("service=none"), &outside).unwrap_err(),
            TargetError::Service("none".into())
        );
    }

    #[test]
    fn the_authority_is_the_one_given_or_that_of_the_home_directory() {
        let outside = Fake(&[("HOME", "/h"), ("/h/.postgresql/root.crt", "certificates")]);
        let root = |dsn, outside: &Fake| Target::parse(Some(dsn), outside).unwrap().root_certificate;
        assert_eq!(root("host=m", &outside), Some("/h/.postgresql/root.crt".into()));
        assert_eq!(root("host=m sslrootcert=/c", &outside), Some("/c".into()));
        assert_eq!(root("host=m", &Fake(&[("HOME", "/h")])), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let outside = Fake(&[]);
        for (text, said) in [
            ("host=a,b port=1,2,3", "different numbers"),
            ("host='a", "not closed"),
            ("sslmode=maybe host=x", "not one of disable"),
            ("target_session_attrs=master host=x", "prefer-standby"),
            ("hots=x", "`hots` is not supported"),
            ("postgres://h/d?x", "no `=`"),
            ("postgres://h/%zz", "percent"),
        ] {
            let error = Target::parse(Some(text), &outside).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
