//! Plans as people read them.

use std::fmt;

use super::{Plan, Step, Turn};
use crate::{
    diff,
    host::{Call, HostPlan, Reason},
};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreatePool => write!(f, "make the storage pool"),
            Self::UploadImage { image } => write!(f, "copy image {image} into the pool"),
            Self::CreateNetwork { network } => write!(f, "make the {network} network"),
            Self::StartNetwork { network } => write!(f, "start the {network} network"),
            Self::Reserve { network, host } => write!(f, "reserve the {network} address of {host}"),
            Self::Unreserve { network, host } => write!(f, "forget the {network} address of {host}"),
            Self::StopHost { host } => write!(f, "power {host} off, because its hardware changes"),
            Self::GiveUpHost { host } => {
                write!(f, "power {host} off, which an earlier run was about to wake up")
            }
            Self::PlugIn { host } => write!(f, "plug in the cables of {host}"),
            Self::CreateDisk { host } => write!(f, "make the disk of {host}"),
            Self::DefineHost { host } => write!(f, "define the VM of {host}"),
            Self::MakeSnapshot { image, .. } => write!(f, "boot a machine of {image} once and save it"),
            Self::CopyHost { host } => write!(f, "start {host} as a copy of the saved machine"),
            Self::StartHost { host } => write!(f, "start {host}"),
            Self::RemoveHost { host } => write!(f, "destroy {host} and its disk"),
            Self::ReplaceHost { host, was, now } => {
                write!(f, "destroy {host} and its disk, which is of image {was}, to make it from {now}")
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Content => "changed",
            Self::Attributes => "owner or mode",
            Self::Pending => "to do",
        })
    }
}

/// The plan as people read it: one line a change, `+` adds, `~` changes, `-` destroys.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let sign = match step {
                Step::RemoveHost { .. } | Step::ReplaceHost { .. } | Step::Unreserve { .. } => '-',
                Step::StopHost { .. } | Step::GiveUpHost { .. } => '~',
                _ => '+',
            };
            writeln!(f, "{sign} {step}")?;
        }
        for host in self.hosts.iter().filter(|host| !host.is_empty()) {
            write!(f, "{host}")?;
        }
        for turn in &self.turns {
            writeln!(f, "~ {turn}")?;
        }
        for host in &self.unasked {
            writeln!(f, "? {host}: will be asked once it runs")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        match self.len() {
            0 if self.is_empty() => writeln!(f, "nothing to do"),
            1 => writeln!(f, "1 change"),
            count => writeln!(f, "{count} changes"),
        }
    }
}

impl fmt::Display for HostPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        if !self.packages.is_empty() {
            writeln!(f, "+ {host}: install {} packages", self.packages.len())?;
        }
        for (what, changes) in [("directory", &self.directories), ("file", &self.files)] {
            for change in changes {
                let sign = if change.reason == Reason::New { '+' } else { '~' };
                writeln!(f, "{sign} {host}: {what} {} ({})", change.what, change.reason)?;
                for line in diff::brief(change.diff.as_deref().unwrap_or_default()) {
                    writeln!(f, "      {line}")?;
                }
            }
        }
        for unit in &self.stops {
            writeln!(f, "- {host}: {unit} ends for good")?;
        }
        for path in &self.remove {
            writeln!(f, "- {host}: file {path}")?;
        }
        for task in &self.tasks {
            writeln!(f, "+ {host}: {}", task.what)?;
            for line in &task.lines {
                writeln!(f, "      {line}")?;
            }
        }
        for handler in &self.handlers {
            writeln!(f, "~ {host}: {handler}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.call)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, because of {}", self.what, self.because.join(", "))
    }
}
