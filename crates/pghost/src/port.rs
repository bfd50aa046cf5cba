//! The virtio port to the hypervisor.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

/// Its name in the definition of the machine.
const NAME: &str = "dev.pgprov.identity";

/// How much sooner the words of somebody may be than the news that they came, and how often that is looked for.
const ARRIVAL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// The port, open. Reading ends when the other side is gone.
pub struct Port(File);

impl Port {
    /// Opens it, if this machine has it.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn find() -> io::Result<Option<Self>> {
        let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
        for port in ports {
            let port = port?;
            let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if name.trim_end() == NAME {
                let device = std::path::Path::new("/dev").join(port.file_name());
                return OpenOptions::new().read(true).write(true).open(device).map(Self).map(Some);
            }
        }
        Ok(None)
    }

    /// What the other side says, for somebody else to read.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn reader(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Waits until somebody is on the other side, and says that.
    ///
    /// # Errors
    /// The device fails.
    pub fn greet(&mut self, word: &str) -> io::Result<()> {
        // Writing waits for the other side; reading does not.
        writeln!(self.0, "{word}")
    }

    /// Waits until the system knows that somebody is on the other side whose words were just read. They come by another queue than the
    /// news of who came and went, and may be sooner. Whoever did go meanwhile is not waited for any longer than that.
    ///
    /// # Errors
    /// The device fails.
    pub fn wait_for_sender(&self) -> io::Result<()> {
        let deadline = Instant::now() + ARRIVAL;
        while self.is_deserted()? && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Sends all of it, unless the other side goes meanwhile: whether it is still there.
    ///
    /// # Errors
    /// The device fails.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<bool> {
        // A write waits while nobody is there. Who goes between this question and the write keeps us until the next one comes.
        if self.is_deserted()? {
            return Ok(false);
        }
        self.0.write_all(bytes).map(|()| true)
    }

    /// Whether nobody is on the other side.
    ///
    /// # Errors
    /// The device fails.
    pub fn is_deserted(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut asked, Some(&rustix::time::Timespec::default()))?;
        Ok(asked[0].revents().contains(PollFlags::HUP))
    }
}

impl From<File> for Port {
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
