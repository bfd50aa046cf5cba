//! Roles and templates in, the files and tasks of each host out.
//!
//! Templates see these values:
//! - `lab`: the [`Lab`] (name, networks, hosts, postgres, ...), and `lab_hosts`, its lines for /etc/hosts;
//! - `host`: the [`Host`](crate::lab::Host) they are rendered for; `primary`: the one that starts as primary;
//! - `pg`: the [`Server`](crate::profile::Server) of that host: version, paths, computed settings;
//! - `users`: passwords and verifiers of the database roles, by name; `passwords`: those of other programs; `ca_certificate`; `tls.certificate`, `tls.key`;
//! - `stock_image`: whether hosts start from an image that is not ours;
//! - `own_vms`: whether hosts are VMs that pgprov makes, and not machines that were there before;
//! - `hosts_with`: names of the hosts by role; `postgres_hosts`: of those that run PostgreSQL; `role_attributes`: what CREATE ROLE knows;
//! - `slot_names`: the replication slot of each host that runs PostgreSQL; `slot`: the one this host streams from; `slots`: those it makes for its standbys; `kept_slots`: those
//!   that it does not drop, `slot_prefix`: how the names of all of them begin.

mod asked;
mod misuse;
mod order;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::Serialize;
use tera::{Context, Tera};

use self::{
    misuse::{misuse, same_users, template_finding},
    order::{deadlock, roles_of, waits_for},
    text::{chain, header, hosts_lines, kept_slots, sources},
};
use crate::{
    digest,
    finding::Finding,
    host::facts,
    lab::{Host, Lab, POSTGRES_ROLE},
    profile::{self, SLOT_PREFIX, slot_name},
    role::{self, Manifest},
    schema,
    secrets::Secrets,
    topology::{Image, Release, RoleAttribute},
    yaml::Limits,
};

/// Role manifests and templates, parsed once.
#[derive(Clone)]
pub struct Roles {
    manifests: BTreeMap<String, Manifest>,
    binaries: BTreeMap<String, Binary>,
    tera: Tera,
}

/// Texts of the role manifests and templates, by their names below roles/ and templates/.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `postgres.yaml` -> text.
    pub roles: BTreeMap<String, String>,
    /// `postgres/pg_hba.conf` -> text.
    pub templates: BTreeMap<String, String>,
    /// What hosts get as it is, programs and other files: `pgagent` -> bytes. A role cannot be rendered without those it needs.
    pub binaries: BTreeMap<String, Binary>,
}

/// A program for hosts. Shown as its checksum.
#[derive(Clone, PartialEq, Eq)]
pub struct Binary(pub Arc<[u8]>);

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binary({} bytes)", self.0.len())
    }
}

impl Serialize for Binary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("sha256:{}", digest::hex(&self.0)))
    }
}

/// Everything a host should have and do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RenderedHost {
    /// Name of the host.
    pub host: String,
    /// Packages to install: those its roles need, when the image does not have them inside.
    pub packages: Vec<String>,
    /// A stanza for apt's sources, when the topology names a mirror for a stock image.
    pub sources: Option<String>,
    /// Directories in order.
    pub directories: Vec<Directory>,
    /// Files in order.
    pub files: Vec<File>,
    /// Tasks in order.
    pub tasks: Vec<Task>,
    /// Handlers in order.
    pub handlers: Vec<Handler>,
    /// Scripts that print why the host may not be touched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refuse: Vec<String>,
    /// Scripts that run after a pause, when the clock was set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<String>,
    /// Scripts that switch timeouts off and on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeouts: Vec<String>,
    /// Scripts that run right before memory is saved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rest: Vec<String>,
    /// Status scripts by role.
    pub status: Vec<(String, String)>,
    /// Log scripts by role.
    pub logs: Vec<(String, String)>,
    /// Hosts that must be ready before this one is configured.
    pub waits_for: Vec<String>,
    /// When it is new, it begins with the tasks that do not wait, once each of those has given these values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins: Option<Vec<String>>,
    /// Whether others have to be configured at the same time, for this one to become ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub together: bool,
}

/// A directory to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Directory {
    /// Absolute.
    pub path: String,
    /// User.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Octal, four digits.
    pub mode: String,
}

/// A file to install.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Absolute.
    pub path: String,
    /// With header; empty for a program.
    pub content: String,
    /// The program that this file is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<Binary>,
    /// User.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Octal, four digits.
    pub mode: String,
    /// Only when missing.
    pub once: bool,
    /// Masked when shown.
    pub secret: bool,
    /// What its lines are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<role::Format>,
    /// Installed before packages as well.
    pub before_packages: bool,
    /// Script that accepts `$1`.
    pub validate: Option<String>,
    /// Handlers.
    pub notify: Vec<String>,
}

/// A task to do unless done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Sentence.
    pub name: String,
    /// Check.
    pub unless: String,
    /// Whether it needs the hosts that its host waits for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Whether what it does is on the disk.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub on_disk: bool,
    /// Its check needs no shell of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asks_only: bool,
    /// Whether files give it nothing to do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub independent: bool,
    /// Prints what it would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<String>,
    /// Script.
    pub run: String,
    /// Limit.
    pub seconds: u32,
    /// Unit it starts.
    pub starts: Option<String>,
    /// Handlers.
    pub notify: Vec<String>,
}

/// A handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Handler {
    /// Name.
    pub name: String,
    /// Script.
    pub run: String,
    /// Unit it acts on.
    pub unit: Option<String>,
    /// Handlers it makes needless.
    pub covers: Vec<String>,
    /// Whether the service goes on meanwhile, so that several hosts may do it at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reload: bool,
    /// When hosts take turns: in which order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling: Option<role::Rolling>,
    /// Succeeds when it has become needless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled: Option<String>,
    /// Limit.
    pub seconds: u32,
}

impl RenderedHost {
    /// What runs on a host whose clock jumped, for a shell that goes on with something else; empty when nothing does.
    pub fn after_a_jump(&self) -> String {
        let (begin, end) = ("resumed() {\n", "\n}; resumed >/dev/null 2>&1 </dev/null\n");
        self.resumed.iter().map(|script| format!("{begin}{}{end}", script.trim_end())).collect()
    }

    /// What switches timeouts off or on; empty when there are none. It fails when one cannot be switched.
    pub fn timeouts(&self, on: bool) -> String {
        let (begin, call) = ("timeouts() {\n", if on { "timeouts on" } else { "(timeouts off)" });
        let end = format!("\n}}; {call} >/dev/null 2>&1 </dev/null || exit 1\n");
        self.timeouts.iter().map(|script| format!("{begin}{}{end}", script.trim_end())).collect()
    }

    /// What has the host leave alone what can wait; empty when there is nothing.
    pub fn rest(&self) -> String {
        self.rest
            .iter()
            .map(|script| format!("(\n{}\n) >/dev/null 2>&1 </dev/null\n", script.trim_end()))
            .collect()
    }

    /// Paths of the files that are ours as long as a role wants them, and then go.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter(|file| !file.once).map(|file| file.path.as_str())
    }

    /// The handler of that name, with its index.
    pub fn handler(&self, name: &str) -> Option<(usize, &Handler)> {
        self.handlers.iter().enumerate().find(|(_, handler)| handler.name == name)
    }
}

impl File {
    /// What is in the file.
    pub fn bytes(&self) -> &[u8] {
        self.binary.as_ref().map_or(self.content.as_bytes(), |binary| &binary.0)
    }

    /// Whether people may see what is in it: neither a secret nor a program.
    pub fn is_shown(&self) -> bool {
        !self.secret && self.binary.is_none()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({}, {} bytes)", self.path, self.bytes().len())
    }
}

/// A template or manifest that cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("rendering {what}: {cause}")]
pub struct RenderError {
    /// Role, host and what in it.
    pub what: String,
    /// Tera's report, with line and column.
    pub cause: String,
}

/// A manifest that cannot be used: its file and what is wrong.
pub type ManifestFindings = Vec<(String, Vec<Finding>)>;

impl Roles {
    /// Parses manifests and templates.
    ///
    /// # Errors
    /// Every finding of every manifest, or the first template that does not parse (as a finding of `templates`).
    pub fn parse(sources: &Sources) -> Result<Self, ManifestFindings> {
        let mut bad: ManifestFindings = Vec::new();
        let mut manifests = BTreeMap::new();
        for (file, text) in &sources.roles {
            let (value, mut findings) = schema::load::<Manifest>(text, Limits::default()).finish();
            if let Some(manifest) = value {
                findings.extend(misuse(file, &manifest, sources));
                manifests.insert(manifest.role.clone(), manifest);
            }
            if !findings.is_empty() {
                bad.push((format!("roles/{file}"), findings));
            }
        }
        bad.extend(same_users(&manifests));
        let mut tera = Tera::new();
        tera.autoescape_on(Vec::<&'static str>::new());
        if let Err(error) = tera.add_raw_templates(sources.templates.iter()) {
            bad.push(template_finding(&error));
        }
        let binaries = sources.binaries.clone();
        if bad.is_empty() { Ok(Self { manifests, binaries, tera }) } else { Err(bad) }
    }

    /// The manifests by role.
    pub fn manifests(&self) -> &BTreeMap<String, Manifest> {
        &self.manifests
    }

    /// Packages of all roles on a release, sorted: what an image contains.
    pub fn packages(&self, release: Release) -> Vec<String> {
        let all = self.manifests.values().filter_map(|manifest| manifest.packages.get(&release)).flatten();
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Renders every host of the lab, in the order of the file.
    ///
    /// # Errors
    /// The first template that fails, with its place.
    pub fn render(&self, lab: &Lab, secrets: &Secrets) -> Result<Vec<RenderedHost>, RenderError> {
        let mut tera = self.tera.clone();
        let globals = tera.global_context();
        self.describe(lab, globals);
        let names = lab.database_users();
        let users: BTreeMap<_, _> = secrets.users.iter().filter(|(name, _)| names.contains(*name)).collect();
        globals.insert("users", &users);
        let others = secrets.users.iter().filter(|(name, _)| !names.contains(*name));
        let passwords: BTreeMap<_, _> =
            others.map(|(name, user)| (name.replace('-', "_"), &user.password)).collect();
        globals.insert("passwords", &passwords);
        globals.insert("ca_certificate", &secrets.ca_certificate);
        let hosts: Result<Vec<_>, _> =
            lab.hosts.iter().map(|host| self.render_host(&tera, lab, host, secrets)).collect();
        let hosts = hosts?;
        match deadlock(&hosts) {
            Some(error) => Err(error),
            None => Ok(hosts),
        }
    }

    /// What all templates see of a lab, whatever its secrets are.
    fn describe(&self, lab: &Lab, globals: &mut Context) {
        globals.insert("lab", lab);
        globals.insert("lab_hosts", &hosts_lines(lab));
        globals.insert("primary", &lab.primary());
        let servers: Vec<&str> = lab.with_role(POSTGRES_ROLE).map(|host| host.name.as_str()).collect();
        globals.insert("postgres_hosts", &servers);
        globals.insert("hosts_with", &self.hosts_with(lab));
        let slots: BTreeMap<&str, String> = servers.iter().map(|name| (*name, slot_name(name))).collect();
        globals.insert("slot_names", &slots);
        globals.insert("slot_prefix", SLOT_PREFIX);
        globals.insert("stock_image", &matches!(lab.image, Image::Stock(_)));
        globals.insert("own_vms", &!lab.is_on_machines());
        globals.insert("role_attributes", &RoleAttribute::ALL);
    }

    /// The hosts of every role that there is, those without any too.
    fn hosts_with<'a>(&'a self, lab: &'a Lab) -> BTreeMap<&'a str, Vec<&'a str>> {
        let hosts = |role: &'a str| lab.with_role(role).map(|host| host.name.as_str()).collect();
        self.manifests.keys().map(|role| (role.as_str(), hosts(role))).collect()
    }

    fn render_host(
        &self,
        tera: &Tera,
        lab: &Lab,
        host: &Host,
        secrets: &Secrets,
    ) -> Result<RenderedHost, RenderError> {
        let mut context = of_host(lab, host);
        context.insert("tls", &secrets.hosts.get(&host.name));
        let mut rendered = RenderedHost { host: host.name.clone(), ..RenderedHost::default() };
        rendered.sources = match &lab.image {
            Image::Stock(stock) if !lab.is_on_machines() => {
                stock.mirror.as_deref().map(|mirror| sources(mirror, stock))
            }
            _ => None,
        };
        let manifests = roles_of(&self.manifests, host)?;
        for manifest in &manifests {
            let scope = self.scope(tera, &context, lab, host, manifest);
            if scope.holds(manifest.when.as_deref())? {
                scope.add_role(manifest, &mut rendered)?;
            }
        }
        rendered.waits_for = waits_for(lab, host, &manifests, |manifest, other| {
            let mut context = context.clone();
            context.insert("other", other);
            self.scope(tera, &context, lab, host, manifest).holds(manifest.after_if.as_deref())
        })?;
        rendered.together = manifests.iter().any(|manifest| manifest.together);
        Ok(rendered)
    }

    fn scope<'a>(
        &'a self,
        tera: &'a Tera,
        context: &'a Context,
        lab: &'a Lab,
        host: &'a Host,
        manifest: &'a Manifest,
    ) -> Scope<'a> {
        Scope { tera, context, lab, host: &host.name, role: &manifest.role, binaries: &self.binaries }
    }
}

/// What all templates see of a host, whatever its secrets are.
fn of_host(lab: &Lab, host: &Host) -> Context {
    let mut context = Context::new();
    context.insert("host", host);
    context.insert("pg", &profile::server(lab, host));
    context.insert("slot", &slot_name(&host.name));
    let slots = if lab.failover.engine.owns_replication() { &[][..] } else { &host.followers };
    context.insert("slots", &slots.iter().map(|name| slot_name(name)).collect::<Vec<_>>());
    context.insert("kept_slots", &kept_slots(lab, host));
    context
}

/// What the templates of one role on one host are rendered with.
struct Scope<'a> {
    tera: &'a Tera,
    context: &'a Context,
    lab: &'a Lab,
    host: &'a str,
    role: &'a str,
    binaries: &'a BTreeMap<String, Binary>,
}

impl Scope<'_> {
    fn add_role(&self, manifest: &Manifest, out: &mut RenderedHost) -> Result<(), RenderError> {
        // An image that we built has the packages of all roles inside.
        if matches!(self.lab.image, Image::Stock(_)) || self.lab.is_on_machines() {
            for package in manifest.packages.get(&self.lab.image.release()).into_iter().flatten() {
                if !out.packages.contains(package) {
                    out.packages.push(package.clone());
                }
            }
        }
        for directory in &manifest.directories {
            if self.holds(directory.when.as_deref())? {
                out.directories.push(Directory {
                    path: self.path(&directory.path)?,
                    owner: directory.owner.clone(),
                    group: directory.group.clone(),
                    mode: directory.mode.clone(),
                });
            }
        }
        for file in &manifest.files {
            if self.holds(file.when.as_deref())? {
                out.files.push(self.file(file)?);
            }
        }
        let mut waits = !manifest.after.is_empty() && manifest.tasks.iter().all(|task| task.waits.is_none());
        for task in &manifest.tasks {
            if self.holds(task.when.as_deref())? {
                if let Some(names) = &task.waits {
                    waits = true;
                    out.begins.get_or_insert_default().extend(names.iter().cloned());
                }
                out.tasks.push(self.task(task, waits)?);
            }
        }
        for handler in &manifest.handlers {
            out.handlers.push(Handler {
                name: handler.name.clone(),
                run: self.text(&handler.run, &handler.name)?,
                unit: handler.unit.as_deref().map(|unit| self.text(unit, &handler.name)).transpose()?,
                covers: handler.covers.clone(),
                reload: handler.reload,
                settled: handler.settled.as_deref().map(|it| self.text(it, &handler.name)).transpose()?,
                rolling: handler.rolling.as_ref().map(|rolling| self.rolling(rolling)).transpose()?,
                seconds: handler.seconds,
            });
        }
        if let Some(refuse) = &manifest.refuse {
            let script = self.text(refuse, "refuse")?;
            out.refuse.extend(Some(script).filter(|script| !script.trim().is_empty()));
        }
        if let Some(resumed) = &manifest.resumed {
            out.resumed.push(self.text(resumed, "resumed")?);
        }
        if let Some(timeouts) = &manifest.timeouts {
            out.timeouts.push(self.text(timeouts, "timeouts")?);
        }
        if let Some(rest) = &manifest.rest {
            out.rest.push(self.text(rest, "rest")?);
        }
        if let Some(status) = &manifest.status {
            out.status.push((self.role.to_owned(), self.text(status, "status")?));
        }
        if let Some(logs) = &manifest.logs {
            out.logs.push((self.role.to_owned(), self.text(logs, "logs")?));
        }
        Ok(())
    }

    fn file(&self, file: &role::File) -> Result<File, RenderError> {
        let path = self.path(&file.path)?;
        let body = match (&file.template, &file.content) {
            (Some(name), _) => {
                self.tera.render(name, self.context).map_err(|error| self.error(name, &error))?
            }
            (None, content) => self.text(content.as_deref().unwrap_or_default(), &path)?,
        };
        let binary = file.binary.as_ref().map(|name| self.binary(name, &path)).transpose()?;
        let header = match &binary {
            Some(_) => String::new(),
            None => header(&file.comment, &self.lab.name, file.once),
        };
        Ok(File {
            content: format!("{header}{body}"),
            binary,
            owner: file.owner.clone(),
            group: file.group.clone(),
            mode: file.mode.clone(),
            once: file.once,
            secret: file.secret,
            format: file.format,
            before_packages: file.before_packages,
            validate: file.validate.as_deref().map(|script| self.text(script, &path)).transpose()?,
            notify: file.notify.clone(),
            path,
        })
    }

    fn binary(&self, name: &str, path: &str) -> Result<Binary, RenderError> {
        self.binaries.get(name).cloned().ok_or_else(|| {
            let cause = match name.starts_with("files/") {
                true => format!("there is no `{name}` in the folder that --assets or PGPROV_ASSETS names"),
                false => format!(
                    "the program `{name}` for hosts is not there: `make guest` builds it, and PGPROV_GUEST_DIR says where it is"
                ),
            };
            RenderError { what: format!("{path} of role {} on {}", self.role, self.host), cause }
        })
    }

    fn task(&self, task: &role::Task, waits: bool) -> Result<Task, RenderError> {
        let unless = self.text(&task.unless, &task.name)?;
        Ok(Task {
            name: self.text(&task.name, &task.name)?,
            asks_only: task.asks_only || facts::only_asks(&unless),
            unless,
            waits,
            on_disk: task.on_disk,
            independent: task.independent,
            changes: task.changes.as_deref().map(|script| self.text(script, &task.name)).transpose()?,
            run: self.text(&task.run, &task.name)?,
            seconds: task.seconds,
            starts: task.starts.as_deref().map(|unit| self.text(unit, &task.name)).transpose()?,
            notify: task.notify.clone(),
        })
    }

    fn rolling(&self, rolling: &role::Rolling) -> Result<role::Rolling, RenderError> {
        let leads = self.text(&rolling.leads, "leads")?;
        Ok(role::Rolling { leads, ..rolling.clone() })
    }

    /// Renders a path and refuses what a shell or our line formats could misread.
    fn path(&self, template: &str) -> Result<String, RenderError> {
        let path = self.text(template, template)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@+".contains(c);
        if path.starts_with('/') && path.chars().all(plain) && !path.contains("/../") {
            Ok(path)
        } else {
            let cause = "a path is absolute and made of letters, digits and / . _ - @ +".to_owned();
            Err(RenderError { what: format!("role {} on {}: path `{path}`", self.role, self.host), cause })
        }
    }

    fn holds(&self, when: Option<&str>) -> Result<bool, RenderError> {
        let Some(condition) = when else { return Ok(true) };
        let template = format!("{{% if {condition} %}}yes{{% endif %}}");
        Ok(self.text(&template, condition)? == "yes")
    }

    fn text(&self, template: &str, what: &str) -> Result<String, RenderError> {
        if !template.contains('{') {
            return Ok(template.to_owned());
        }
        self.tera.render_str(template, self.context, false).map_err(|error| self.error(what, &error))
    }

    fn error(&self, what: &str, error: &tera::Error) -> RenderError {
        RenderError { what: format!("{what} of role {} on {}", self.role, self.host), cause: chain(error) }
    }
}
