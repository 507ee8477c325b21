//! Frames: ttrpc messages, in what NRI multiplexes over one connection. Knows lengths and numbers, no meaning.
//!
//! A frame of the multiplexer is a connection id and a length (four bytes each, big-endian) and so many bytes. A ttrpc message
//! is a length, a stream id (four bytes each, big-endian), a type, flags, and so many bytes; it may come in several frames.

use std::{collections::HashMap, io};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The connection on which the runtime calls the plugin.
pub(super) const PLUGIN: u32 = 1;
/// The connection on which the plugin calls the runtime.
pub(super) const RUNTIME: u32 = 2;
/// Type of a message that asks.
pub(super) const REQUEST: u8 = 1;
/// Type of a message that answers.
pub(super) const RESPONSE: u8 = 2;

const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;
/// Longest data of a message, by the protocol.
const MAX_DATA: usize = 4 << 20;

/// Why a connection cannot be used any more.
#[derive(Debug, Error)]
pub(super) enum WireError {
    /// It ended, or could not be read or written.
    #[error("the connection ended")]
    Ended(#[source] io::Error),
    /// The other end does not keep to the protocol.
    #[error("a message of {length} bytes: the protocol knows none beyond {MAX_DATA}")]
    TooLong {
        /// What was announced.
        length: usize,
    },
    /// Frames for connections that nobody knows.
    #[error("a frame for connection {id}: there are {PLUGIN} and {RUNTIME}")]
    Connection {
        /// Which.
        id: u32,
    },
}

/// One ttrpc message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The connection that it came or goes on.
    pub(super) connection: u32,
    pub(super) stream: u32,
    pub(super) kind: u8,
    pub(super) data: Vec<u8>,
}

/// Puts messages together from frames.
#[derive(Debug)]
pub(super) struct Reader<R> {
    from: R,
    /// What came of messages that are not whole yet, by connection.
    parts: HashMap<u32, Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, parts: HashMap::from([(PLUGIN, Vec::new()), (RUNTIME, Vec::new())]) }
    }

    /// The next message. Not to be dropped half-way: what was read is lost then.
    pub(super) async fn next(&mut self) -> Result<Message, WireError> {
        loop {
            for (&connection, part) in &mut self.parts {
                if let Some(message) = take(connection, part)? {
                    return Ok(message);
                }
            }
            let id = self.from.read_u32().await.map_err(WireError::Ended)?;
            let length = self.from.read_u32().await.map_err(WireError::Ended)? as usize;
            if length > MAX_DATA + MESSAGE_HEADER {
                return Err(WireError::TooLong { length });
            }
            let part = self.parts.get_mut(&id).ok_or(WireError::Connection { id })?;
            let start = part.len();
            part.resize(start + length, 0);
            self.from.read_exact(&mut part[start..]).await.map_err(WireError::Ended)?;
        }
    }
}

/// The first message of `part`, if all of it is there.
fn take(connection: u32, part: &mut Vec<u8>) -> Result<Option<Message>, WireError> {
    let Some((header, _)) = part.split_at_checked(MESSAGE_HEADER) else { return Ok(None) };
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (length, stream, kind) = (number(0) as usize, number(4), header[8]);
    if length > MAX_DATA {
        return Err(WireError::TooLong { length });
    }
    if part.len() < MESSAGE_HEADER + length {
        return Ok(None);
    }
    let rest = part.split_off(MESSAGE_HEADER + length);
    let data = std::mem::replace(part, rest).split_off(MESSAGE_HEADER);
    Ok(Some(Message { connection, stream, kind, data }))
}

/// Sends a message as one frame: runtimes read whole messages only.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), message: &Message) -> Result<(), WireError> {
    let data = u32::try_from(message.data.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(FRAME_HEADER + MESSAGE_HEADER + message.data.len());
    frame.extend(message.connection.to_be_bytes());
    frame.extend((data + 10).to_be_bytes());
    frame.extend(data.to_be_bytes());
    frame.extend(message.stream.to_be_bytes());
    frame.extend([message.kind, 0]);
    frame.extend(&message.data);
    to.write_all(&frame).await.map_err(WireError::Ended)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    #[test]
    fn bytes_are_the_protocols() {
        let message = Message { connection: RUNTIME, stream: 1, kind: REQUEST, data: b"abc".to_vec() };
        let mut bytes = Vec::new();
        run(send(&mut bytes, &message)).expect("memory takes everything");
        assert_eq!(bytes, [0, 0, 0, 2, 0, 0, 0, 13, 0, 0, 0, 3, 0, 0, 0, 1, 1, 0, b'a', b'b', b'c']);
    }

    #[test]
    fn what_the_protocol_does_not_know_ends_the_connection() {
        let read = |bytes: &[u8]| run(Reader::new(bytes).next()).expect_err("no message");
        assert!(matches!(read(&[0, 0, 0, 3, 0, 0, 0, 0]), WireError::Connection { id: 3 }));
        assert!(matches!(read(&[0, 0, 0, 1, 0xff, 0, 0, 0]), WireError::TooLong { .. }));
        assert!(matches!(read(&[0, 0, 0, 1, 0, 0, 0, 10, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0]), WireError::TooLong { .. }));
        assert!(matches!(read(&[0, 0, 0, 1, 0, 0, 0, 9, 1]), WireError::Ended(_)));
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            data in proptest::collection::vec((any::<bool>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..5),
            size in 1..20_usize,
        ) {
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for (plugin, stream, data) in data {
                let connection = if plugin { PLUGIN } else { RUNTIME };
                let mut whole = Vec::new();
                let message = Message { connection, stream, kind: RESPONSE, data };
                run(send(&mut whole, &message)).expect("memory takes everything");
                for part in whole[FRAME_HEADER..].chunks(size) {
                    bytes.extend(connection.to_be_bytes());
                    bytes.extend(u32::try_from(part.len()).expect("short").to_be_bytes());
                    bytes.extend(part);
                }
                sent.push(message);
            }
            let mut reader = Reader::new(&bytes[..]);
            for message in sent {
                prop_assert_eq!(run(reader.next()).expect("a message"), message);
            }
            prop_assert!(run(reader.next()).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes[..]);
            while run(reader.next()).is_ok() {}
        }
    }
}
