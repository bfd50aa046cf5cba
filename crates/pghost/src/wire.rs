//! What hypervisor and host say to each other, on a virtio port that is a stream of bytes without beginning or end.
//!
//! The hypervisor sends a [`Request`]: an empty line, a line `run ID CLOCK SCRIPT INPUT CHECK`, then so many bytes of script and so many of
//! its standard input. CLOCK is what the host sets its clock to before, in seconds since 1970 with a fraction, or `-`. The host answers with lines of the same ID: `start ID`, any number of `out ID BYTES` each followed by so many
//! bytes that the script wrote, and `exit ID STATUS`. It says `ready` whenever somebody comes, and lines of other IDs belong to
//! somebody who has gone.

use std::{
    io::{self, BufRead, Read as _, Write},
    time::Duration,
};

/// The longest line: a word and four numbers.
const LINE_MAX: u64 = 200;
/// The most that a request may be: programs are a few megabytes.
const BODY_MAX: u64 = 256 << 20;

/// A script to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tells its answer from those to others.
    pub id: u64,
    /// What time it is, for a host whose clock may be wrong, since 1970.
    pub clock: Option<Duration>,
    /// What `sh` runs; nothing is run when it is empty.
    pub script: Vec<u8>,
    /// What it reads.
    pub input: Vec<u8>,
}

/// One line that the host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The script has begun.
    Start(u64),
    /// So many bytes of output follow.
    Out(u64, usize),
    /// It ended with that status; 128 and more is a signal, as the shell counts them.
    Exit(u64, i32),
}

impl Request {
    /// Writes it.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let check = check(&self.script, &self.input);
        // On a line of its own, also after what somebody did not send to its end.
        let clock = self.clock.map_or_else(|| "-".to_owned(), seconds);
        writeln!(to, "\nrun {} {clock} {} {} {check}", self.id, self.script.len(), self.input.len())?;
        to.write_all(&self.script)?;
        to.write_all(&self.input)
    }

    /// Reads the next one. Whatever is not one is passed over: its sender may have been killed in the middle of it. None when
    /// the other side is gone.
    ///
    /// # Errors
    /// Those of `from`.
    pub fn read<R: BufRead>(from: &mut R) -> io::Result<Option<Self>> {
        loop {
            let mut line = Vec::new();
            if from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            let Some(Header { id, clock, script, input, check: wanted }) = header(&line) else { continue };
            let mut body = Vec::new();
            from.by_ref().take(script + input).read_to_end(&mut body)?;
            if body.len() as u64 != script + input {
                return Ok(None);
            }
            let input = body.split_off(usize::try_from(script).unwrap_or(usize::MAX));
            if check(&body, &input) == wanted {
                return Ok(Some(Self { id, clock, script: body, input }));
            }
        }
    }
}

struct Header {
    id: u64,
    clock: Option<Duration>,
    script: u64,
    input: u64,
    check: u64,
}

fn header(line: &[u8]) -> Option<Header> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let words: Vec<&str> = line.split(' ').collect();
    let ["run", id, clock, script, input, check] = words[..] else { return None };
    let number = |word: &str| word.parse::<u64>().ok();
    let clock = match clock {
        "-" => None,
        clock => Some(duration(clock)?),
    };
    let header = Header {
        id: number(id)?,
        clock,
        script: number(script)?,
        input: number(input)?,
        check: number(check)?,
    };
    header.script.checked_add(header.input).filter(|sum| *sum <= BODY_MAX).map(|_| header)
}

/// A time as it is written here: seconds, a point, nine digits.
pub fn seconds(time: Duration) -> String {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

/// What [`seconds`] wrote.
pub fn duration(text: &str) -> Option<Duration> {
    let (seconds, fraction) = text.split_once('.')?;
    let nanoseconds = fraction.parse().ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000)?;
    (fraction.len() == 9).then_some(Duration::new(seconds.parse().ok()?, nanoseconds))
}

impl Answer {
    /// What a line says, if it is one of these.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let (id, number) = rest.split_once(' ').unwrap_or((rest, ""));
        let id = id.parse().ok()?;
        match word {
            "start" if number.is_empty() => Some(Self::Start(id)),
            "out" => Some(Self::Out(id, number.parse().ok()?)),
            "exit" => Some(Self::Exit(id, number.parse().ok()?)),
            _ => None,
        }
    }

    /// The line, with its end.
    pub fn line(self) -> String {
        match self {
            Self::Start(id) => format!("start {id}\n"),
            Self::Out(id, length) => format!("out {id} {length}\n"),
            Self::Exit(id, status) => format!("exit {id} {status}\n"),
        }
    }
}

/// Tells whether a request has arrived as it was sent. By eight bytes at a time: an emulated processor does nothing faster.
fn check(script: &[u8], input: &[u8]) -> u64 {
    let part = |seed: u64, bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let step = |sum: u64, word: &[u8; 8]| {
            (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23)
        };
        step(words.iter().fold(seed ^ bytes.len() as u64, step), &last)
    };
    part(part(0xCBF2_9CE4_8422_2325, script), input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u64) -> Request {
        let clock = id.is_multiple_of(2).then(|| Duration::from_millis(1_795_978_072_005));
        Request { id, clock, script: b"tar -x".to_vec(), input: (0..=255).cycle().take(1000).collect() }
    }

    fn bytes(request: &Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        request.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn requests_arrive_as_they_were_sent() {
        let sent =
            [request(7), Request { id: 8, clock: None, script: Vec::new(), input: Vec::new() }, request(9)];
        let mut stream: &[u8] = &sent.iter().flat_map(bytes).collect::<Vec<_>>();
        for request in sent {
            assert_eq!(Request::read(&mut stream).unwrap(), Some(request));
        }
        assert_eq!(Request::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn what_a_killed_sender_left_is_never_run() {
        let whole = bytes(&request(1));
        for length in 0..whole.len() {
            let mut stream = whole[..length].to_vec();
            // The rest is made up by whoever comes next, as often as it takes.
            (2..200).for_each(|id| stream.extend(bytes(&request(id))));
            let read = Request::read(&mut stream.as_slice()).unwrap();
            assert!(read.is_some_and(|request| request.id > 1), "{length} bytes");
        }
    }

    #[test]
    fn noise_is_passed_over_and_no_size_is_believed() {
        let mut stream = b"ready\nrun 1 2\nrun 1 - 99999999999999 5 6\nrun 1 - 18446744073709551615 5 6\nrun 1 soon 1 1 1\n".to_vec();
        stream.extend([b'x'; 1000]);
        stream.push(b'\n');
        stream.extend(bytes(&request(3)));
        assert_eq!(Request::read(&mut stream.as_slice()).unwrap(), Some(request(3)));
    }

    #[test]
    fn lines_of_answers() {
        for answer in [Answer::Start(1), Answer::Out(2, 30), Answer::Exit(u64::MAX, 143)] {
            assert_eq!(Answer::parse(answer.line().trim_end()), Some(answer));
        }
        // The last is what the program of older images says.
        for other in ["ready", "start", "start x", "start 1 2", "out 1", "exit 0 x", "failed hostname"] {
            assert_eq!(Answer::parse(other), None, "{other}");
        }
    }
}
