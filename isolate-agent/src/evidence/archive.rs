//! The archive: a tar in zstd, written front to back, with the SHA-256 of each file in it and of the whole.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// zstd's own default: about 300 MB/s on one core.
const LEVEL: i32 = 3;

/// One file of the archive, as its manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Member {
    /// Its name in the archive.
    pub(super) name: String,
    /// Its size.
    pub(super) bytes: u64,
    /// Its SHA-256, in hex.
    pub(super) sha256: String,
    /// Whether the original went on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) cut_short: bool,
}

/// An archive that is being written.
pub(super) struct Archive {
    tar: tar::Builder<zstd::Encoder<'static, Hashing<File>>>,
    pub(super) members: Vec<Member>,
}

impl Archive {
    /// Makes the file, which must not exist: evidence replaces nothing.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let encoder = zstd::Encoder::new(Hashing::new(file), LEVEL)?;
        Ok(Self { tar: tar::Builder::new(encoder), members: Vec::new() })
    }

    /// Adds a file of these bytes.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8], cut_short: bool) -> io::Result<()> {
        self.copy(name, bytes, bytes.len() as u64, cut_short)
    }

    /// Adds a file of exactly `length` bytes; what `from` lacks of them is filled with zeroes.
    pub(super) fn copy(&mut self, name: &str, from: impl Read, length: u64, cut_short: bool) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or_default());
        let mut from = Hashing::new(Exactly { from, left: length });
        self.tar.append_data(&mut header, name, &mut from)?;
        let member = Member { name: name.to_owned(), bytes: length, sha256: from.finish().1, cut_short };
        self.members.push(member);
        Ok(())
    }

    /// Hands everything that was added so far to the kernel.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.tar.get_mut().flush()
    }

    /// Ends the archive and gives its own SHA-256. It is on disk then.
    pub(super) fn finish(self) -> io::Result<String> {
        let (file, sha256) = self.tar.into_inner()?.finish()?.finish();
        file.sync_all()?;
        Ok(sha256)
    }
}

/// Reads exactly so many bytes, whatever becomes of the source.
struct Exactly<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut read = self.from.read(&mut buffer[..most]).unwrap_or(0);
        if read == 0 {
            buffer[..most].fill(0);
            read = most;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Passes bytes on and hashes them.
pub(super) struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// What it passes on from or to, and the SHA-256 of all that went by, in hex.
    pub(super) fn finish(self) -> (T, String) {
        let bytes: [u8; 32] = self.hash.finalize().into();
        let halves = bytes.chunks_exact(16).map(|half| u128::from_be_bytes(half.try_into().expect("16 bytes")));
        let digits: Vec<String> = halves.map(|half| format!("{half:032x}")).collect();
        (self.inner, digits.concat())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;

    #[test]
    fn what_is_added_is_read_back_with_its_hashes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bundle.tar.zst");
        let mut archive = Archive::create(&path).expect("made");
        let long = format!("proc/{}", "x".repeat(300));
        archive.add("a", b"hello\n", false).expect("added");
        archive.add(&long, b"", false).expect("added");
        archive.copy("shrunk", &b"abc"[..], 5, true).expect("added");
        archive.copy("grown", &b"abcdef"[..], 3, false).expect("added");
        let members = archive.members.clone();
        let sha256 = archive.finish().expect("finished");

        let whole = fs::read(&path).expect("read");
        let mut hash = Hashing::new(&whole[..]);
        io::copy(&mut hash, &mut io::sink()).expect("hashed");
        assert_eq!(hash.finish().1, sha256);
        let mut tar = tar::Archive::new(zstd::Decoder::new(&whole[..]).expect("zstd"));
        let mut contents = BTreeMap::new();
        for entry in tar.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let (mut bytes, name) = (Vec::new(), entry.path().expect("a name").display().to_string());
            entry.read_to_end(&mut bytes).expect("read");
            contents.insert(name, bytes);
        }
        let expected: [(&str, &[u8]); 4] = [("a", b"hello\n"), (&long, b""), ("shrunk", b"abc\0\0"), ("grown", b"abc")];
        for (name, bytes) in expected {
            assert_eq!(contents[name], bytes, "{name}");
        }
        assert_eq!(members[0].sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }

    #[test]
    fn nothing_is_replaced_and_no_link_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (taken, link) = (folder.path().join("taken"), folder.path().join("link"));
        fs::write(&taken, "kept").expect("written");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).expect("linked");
        for path in [&taken, &link] {
            assert_eq!(Archive::create(path).expect_err("refused").kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(&taken).expect("read"), "kept");
    }
}
