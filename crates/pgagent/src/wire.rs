//! How messages become bytes: a length, a version, JSON.

use pgagent_core::{Member, Message};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Changes whenever old and new agents would misunderstand each other.
pub const VERSION: u8 = 2;
/// The longest message, in bytes. A real one has about a thousand.
pub const LONGEST: usize = 16 * 1024;

/// A message and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Name of the cluster.
    pub cluster: String,
    /// The sender; its certificate has to fit.
    pub from: Member,
    /// [`crate::config::Config::shared`] of the sender.
    pub settings: u32,
    /// What it says.
    pub message: Message,
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    /// Too long.
    #[error("a message of {0} bytes is longer than {LONGEST}")]
    TooLong(usize),
    /// An older or newer agent.
    #[error(
        "the other agent speaks version {0} of the protocol, this one {VERSION}: bring them to the same version"
    )]
    Version(u8),
    /// Not a message.
    #[error("cannot understand a message: {0}")]
    Bad(#[from] serde_json::Error),
}

/// The bytes of a message, its length in front.
pub fn encode(envelope: &Envelope) -> Result<Vec<u8>, WireError> {
    let body = serde_json::to_vec(envelope)?;
    let length = body.len() + 1;
    if length > LONGEST {
        return Err(WireError::TooLong(length));
    }
    let mut bytes = Vec::with_capacity(length + 4);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.push(VERSION);
    bytes.extend(body);
    Ok(bytes)
}

/// The message of a frame without its length.
pub fn decode(frame: &[u8]) -> Result<Envelope, WireError> {
    match frame.split_first() {
        Some((&VERSION, body)) => Ok(serde_json::from_slice(body)?),
        Some((version, _)) => Err(WireError::Version(*version)),
        None => Err(WireError::Version(0)),
    }
}

/// Reads one message. Nothing longer than [`LONGEST`] is ever allocated.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Envelope, WireError> {
    let length = from.read_u32().await? as usize;
    if length > LONGEST {
        return Err(WireError::TooLong(length));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await?;
    decode(&frame)
}

/// Writes one message.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), envelope: &Envelope) -> Result<(), WireError> {
    to.write_all(&encode(envelope)?).await?;
    Ok(to.flush().await?)
}

#[cfg(test)]
mod tests {
    use pgagent_core::{Ask, Nonce, Request, Site, Stamp};
    use proptest::prelude::*;

    use super::*;

    fn envelope(count: u32) -> Envelope {
        let nonce = Nonce { site: Site::Two, session: 3, count };
        let stamp = Stamp { incarnation: 1, version: 9 };
        let message = Message::Request(Request { nonce, stamp, ask: Ask::Solo });
        Envelope { cluster: "lab".to_owned(), from: Member::Data(Site::Two), settings: 7, message }
    }

    #[test]
    fn other_versions_are_refused_by_name() {
        let mut bytes = encode(&envelope(1)).unwrap();
        bytes[4] = 1;
        let error = decode(&bytes[4..]).unwrap_err().to_string();
        assert!(error.contains("version 1") && error.contains("this one 2"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(count: u32) {
            let bytes = encode(&envelope(count)).unwrap();
            prop_assert_eq!(decode(&bytes[4..]).unwrap(), envelope(count));
        }

        #[test]
        fn any_bytes_are_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damaged_messages_are_refused_or_differ(at in 5usize..100, byte: u8) {
            let mut bytes = encode(&envelope(7)).unwrap();
            let at = at.min(bytes.len() - 1);
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            if let Ok(other) = decode(&bytes[4..]) {
                prop_assert_ne!(other, envelope(7));
            }
        }
    }
}
