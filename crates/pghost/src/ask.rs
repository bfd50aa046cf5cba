//! Runs SQL from standard input as the server's superuser, for scripts; rows are as `psql -XAtq` prints them.
//!
//! psql costs an emulated host a fifteenth of a second more: that is how long its libraries take to be linked. Lines `\g` part what
//! is sent at once.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::{
    backend::{DataRowBody, ErrorFields, Message},
    frontend,
};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

/// Where Debian's servers listen; the port is that of every server of ours.
const SOCKET: &str = "/var/run/postgresql/.s.PGSQL.5432";
/// Superuser of the server, and user of the system whom it believes that.
const USER: &str = "postgres";
const PARTING: &str = "\n\\g\n";

/// Asks all that standard input has, and returns the rows; the first statement that fails is the last.
///
/// # Errors
/// There is no server, it takes no connection, or a statement fails.
pub fn ask() -> io::Result<Vec<u8>> {
    let statements = io::read_to_string(io::stdin())?;
    become_user(&fs::read_to_string("/etc/passwd")?)?;
    Session::open(UnixStream::connect(SOCKET)?)?.run(&statements)
}

/// Becomes the user whom the server lets in as superuser.
fn become_user(passwd: &str) -> io::Result<()> {
    let (uid, gid) = ids(passwd).ok_or_else(|| io::Error::other(format!("there is no user {USER}")))?;
    set_thread_groups(&[Gid::from_raw(gid)])?;
    set_thread_gid(Gid::from_raw(gid))?;
    Ok(set_thread_uid(Uid::from_raw(uid))?)
}

fn ids(passwd: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(USER))?;
    let mut words = line.split(':').skip(2);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// A connection to a server.
struct Session {
    socket: UnixStream,
    heard: BytesMut,
}

impl Session {
    fn open(socket: UnixStream) -> io::Result<Self> {
        let mut session = Self { socket, heard: BytesMut::new() };
        let mut hello = BytesMut::new();
        let parameters =
            [("user", USER), ("database", USER), ("client_encoding", "UTF8"), ("application_name", "pgprov")];
        frontend::startup_message(parameters, &mut hello)?;
        session.socket.write_all(&hello)?;
        session.until_ready(&mut Vec::new())?;
        Ok(session)
    }

    fn run(mut self, statements: &str) -> io::Result<Vec<u8>> {
        let mut rows = Vec::new();
        for part in statements.split(PARTING) {
            let mut query = BytesMut::new();
            frontend::query(part, &mut query)?;
            self.socket.write_all(&query)?;
            self.until_ready(&mut rows)?;
        }
        let mut end = BytesMut::new();
        frontend::terminate(&mut end);
        // A server that is gone by now has answered all the same.
        let _ = self.socket.write_all(&end);
        Ok(rows)
    }

    /// Listens until the server waits for the next query.
    fn until_ready(&mut self, rows: &mut Vec<u8>) -> io::Result<()> {
        loop {
            match self.next()? {
                Message::DataRow(row) => write_row(&row, rows)?,
                Message::ErrorResponse(error) => return Err(describe(error.fields())),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::ParameterStatus(_)
                | Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::NoticeResponse(_) => {}
                _ => return Err(io::Error::other("the server wants what this client cannot")),
            }
        }
    }

    fn next(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = Message::parse(&mut self.heard)? {
                return Ok(message);
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer)? {
                0 => return Err(io::Error::other("the server ended the connection")),
                count => self.heard.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

/// A line of cells with `|` between them; what is null is empty.
fn write_row(row: &DataRowBody, rows: &mut Vec<u8>) -> io::Result<()> {
    let mut cells = row.ranges().enumerate();
    while let Some((at, cell)) = cells.next()? {
        if at > 0 {
            rows.push(b'|');
        }
        rows.extend(cell.map(|cell| &row.buffer()[cell]).unwrap_or_default());
    }
    rows.push(b'\n');
    Ok(())
}

fn describe(mut fields: ErrorFields<'_>) -> io::Error {
    let mut text = String::new();
    while let Ok(Some(field)) = fields.next() {
        match field.type_() {
            b'C' => text = format!("{text} ({})", String::from_utf8_lossy(field.value_bytes())),
            b'M' => text = format!("{}{text}", String::from_utf8_lossy(field.value_bytes())),
            _ => {}
        }
    }
    io::Error::other(text)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A message of the server.
    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
    }

    fn row(cells: &[Option<&str>]) -> Vec<u8> {
        let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                Some(text) => {
                    body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    body.extend(text.as_bytes());
                }
                None => body.extend((-1_i32).to_be_bytes()),
            }
        }
        message(b'D', &body)
    }

    /// What a session says of that to a server that answers this, one part after the other.
    fn said(statements: &str, answers: &[Vec<u8>]) -> Result<String, String> {
        let (client, mut server) = UnixStream::pair().unwrap();
        let answers = answers.to_vec();
        let serving = thread::spawn(move || {
            for answer in answers {
                let mut buffer = [0; 4096];
                assert!(server.read(&mut buffer).unwrap() > 0);
                server.write_all(&answer).unwrap();
            }
        });
        let rows = Session::open(client).and_then(|session| session.run(statements));
        serving.join().unwrap();
        rows.map(|rows| String::from_utf8(rows).unwrap()).map_err(|error| error.to_string())
    }

    fn ready() -> Vec<u8> {
        message(b'Z', b"I")
    }

    fn hello() -> Vec<u8> {
        [message(b'R', &[0; 4]), message(b'S', b"TimeZone\0UTC\0"), ready()].concat()
    }

    #[test]
    fn rows_are_lines_and_parts_are_sent_one_after_the_other() {
        let first = [row(&[Some("a"), None, Some("b c")]), message(b'C', b"SELECT 1\0"), ready()].concat();
        let second = [row(&[Some("two\nlines")]), message(b'C', b"SELECT 1\0"), ready()].concat();
        assert_eq!(
            said("select 1\n\\g\nselect 2", &[hello(), first, second]).unwrap(),
            "a||b c\ntwo\nlines\n"
        );
    }

    #[test]
    fn the_first_error_ends_it_and_is_told_with_its_code() {
        let error = message(b'E', b"SERROR\0C42P01\0Mrelation \"x\" does not exist\0\0");
        assert_eq!(
            said("select\n\\g\nselect", &[hello(), error]).unwrap_err(),
            "relation \"x\" does not exist (42P01)"
        );
        let refused = message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
        assert_eq!(said("select", &[refused]).unwrap_err(), "the database system is starting up (57P03)");
    }

    #[test]
    fn who_may_ask_is_looked_up() {
        assert_eq!(
            ids("root:x:0:0::/:/bin/sh\npostgres:x:101:103:,,,:/var/lib/postgresql:/bin/bash\n"),
            Some((101, 103))
        );
        assert_eq!(ids("postgresql:x:1:1::/:\n"), None);
    }
}
