//! The files of the journals: made, opened, read at start, removed.
//!
//! `journal/<shard>/segment-<n>` in the data directory, all segments of a shard of one size. They are made by writing zeros,
//! because a write into blocks that were only reserved costs the file system a transaction of its own.
//!
//! Invariant: files are changed in size only while the store has no salt for their journal, so a journal the store knows
//! is whole, and [`FileSource`] may refuse one that is not.
//!
//! Does not write records: the ring does, to [`Files::descriptors`].

use super::replay::ReadSegment;
use super::{BLOCK_SIZE, PageBuffer, segment_name};
use crate::ids::ShardId;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Owner and group may look; the messages are no one else's.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// Zeros are written in pieces of this size, bytes.
const ZEROS_SIZE: usize = 1 << 20;

/// How records are to reach the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// To the medium, past the page cache where the file system can.
    Direct,
    /// `-N`: to the page cache.
    Buffered,
}

/// What makes a record durable on these files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncMethod {
    /// One write with `RWF_DSYNC`; the descriptors have `O_DIRECT`.
    DirectDsync,
    /// A write and then `fdatasync`: the file system refuses direct writes.
    WriteThenFdatasync,
    /// Nothing: the kernel writes back when it likes, and [`Files::sync_all`] in the background.
    PageCache,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The system refused something.
    #[error("{} cannot be {operation}: {source}. Check its owner, the file system and the device", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What was tried, as a participle.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no room to make the files.
    #[error(
        "the journal in {} needs {needed} bytes more than it has, and there is no room: {source}. Free some, or choose smaller \
         journals with -E, -A or --journal-max",
        directory.display()
    )]
    Full {
        /// The shard's directory.
        directory: PathBuf,
        /// What its files lacked before this start, bytes.
        needed: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A journal that the database knows is not whole.
    #[error(
        "{} {problem}. Messages that were acknowledged are missing with it: restore the whole data directory from one copy",
        path.display()
    )]
    NotWhole {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// A shard's segments, open for writing.
#[derive(Debug)]
pub struct Files {
    descriptors: Vec<OwnedFd>,
    paths: Vec<PathBuf>,
    sync_method: SyncMethod,
}

impl Files {
    /// Makes the directory and the segments where they are missing, gives them their size, and opens them. Their content is not
    /// kept: to be called when the store has all of it and no salt for it.
    ///
    /// # Errors
    /// When the files cannot be made or opened; [`FilesError::Full`] leaves the file for which there was no room
    /// with the size it had.
    pub fn open_or_create(
        home: &Path,
        shard: ShardId,
        segment_size: u64,
        segments: u32,
        mode: Mode,
    ) -> Result<Files, FilesError> {
        assert!(segment_size >= 2 * BLOCK_SIZE && segment_size.is_multiple_of(BLOCK_SIZE), "segments are whole blocks");
        let directory = directory(home, shard);
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(&directory)
            .map_err(io_error(&directory, "created"))?;
        let paths: Vec<PathBuf> = (0..segments).map(|segment| home.join(segment_name(shard, segment))).collect();
        let mut needed = 0;
        for path in &paths {
            needed += segment_size.saturating_sub(size_of_file(path)?);
        }
        for path in &paths {
            set_size(path, segment_size).map_err(|failure| match failure {
                FilesError::Io { source, .. } if is_full(&source) => {
                    FilesError::Full { directory: directory.clone(), needed, source }
                }
                failure => failure,
            })?;
        }
        // Also when nothing was made: an earlier start may have been killed before it came here.
        for path in [directory.as_path(), &home.join("journal"), home] {
            sync_directory(path)?;
        }
        let (descriptors, sync_method) = match mode {
            Mode::Buffered => (open_all(&paths, OFlags::empty())?, SyncMethod::PageCache),
            Mode::Direct => match open_direct(&paths)? {
                Some(descriptors) => {
                    leave_page_cache(&descriptors, &paths)?;
                    (descriptors, SyncMethod::DirectDsync)
                }
                None => (open_all(&paths, OFlags::empty())?, SyncMethod::WriteThenFdatasync),
            },
        };
        Ok(Files { descriptors, paths, sync_method })
    }

    /// One for each segment, in order. Writes at multiples of [`BLOCK_SIZE`] from [`PageBuffer`]s suit them.
    pub fn descriptors(&self) -> &[OwnedFd] {
        &self.descriptors
    }

    /// One for each segment, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What makes a record durable.
    pub fn sync_method(&self) -> SyncMethod {
        self.sync_method
    }

    /// Brings what was written to the medium.
    ///
    /// # Errors
    /// When the medium fails: what was written since the last success may be lost, and a second try may lie.
    pub fn sync_all(&self) -> Result<(), FilesError> {
        for (descriptor, path) in self.descriptors.iter().zip(&self.paths) {
            rustix::fs::fdatasync(descriptor).map_err(|e| io_error(path, "synced")(e.into()))?;
        }
        Ok(())
    }
}

/// The shards that have a journal's directory in the data directory, in order.
///
/// # Errors
/// When the directory cannot be read.
pub fn existing(home: &Path) -> Result<Vec<ShardId>, FilesError> {
    let path = home.join("journal");
    let entries = match std::fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(&path, "read"))?,
    };
    let mut shards = Vec::new();
    for entry in entries {
        let name = entry.map_err(io_error(&path, "read"))?.file_name();
        let shard = name.to_str().and_then(|name| name.parse().ok()).map(ShardId);
        // Only names we give: `07` or `notes` is someone else's.
        shards.extend(shard.filter(|shard| name.to_str() == Some(&shard.to_string())));
    }
    shards.sort();
    Ok(shards)
}

/// Removes a retired shard's journal. To be called when the store has no salt for it.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove(home: &Path, shard: ShardId) -> Result<(), FilesError> {
    let directory = directory(home, shard);
    match std::fs::remove_dir_all(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(io_error(&directory, "removed")),
    }
}

/// The files of a journal, to be replayed.
#[derive(Debug)]
pub struct FileSource {
    files: Vec<File>,
    segment_size: u64,
}

impl FileSource {
    /// Opens a journal that the store has a salt for. What an unsynced run left in the page cache is synced first: a replay
    /// must not find what a power cut could still take away.
    ///
    /// # Errors
    /// [`FilesError::NotWhole`] when a segment is missing or the sizes differ.
    pub fn open(home: &Path, shard: ShardId, segments: u32) -> Result<FileSource, FilesError> {
        let mut source = FileSource { files: Vec::new(), segment_size: 0 };
        for segment in 0..segments {
            let path = home.join(segment_name(shard, segment));
            let not_whole = |problem: String| FilesError::NotWhole { path: path.clone(), problem };
            let file = File::open(&path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => not_whole("is missing".to_owned()),
                _ => io_error(&path, "opened")(e),
            })?;
            let size = file.metadata().map_err(io_error(&path, "examined"))?.len();
            if segment == 0 {
                source.segment_size = size;
            }
            if size == 0 || !size.is_multiple_of(BLOCK_SIZE) || size != source.segment_size {
                let first = source.segment_size;
                return Err(not_whole(format!("has {size} bytes, and segment-0 has {first}: it was cut or replaced")));
            }
            file.sync_all().map_err(io_error(&path, "synced"))?;
            source.files.push(file);
        }
        Ok(source)
    }
}

impl ReadSegment for FileSource {
    fn segments(&self) -> u32 {
        self.files.len() as u32
    }

    fn segment_size(&self) -> u64 {
        self.segment_size
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.files[segment as usize].read_exact_at(into, offset)
    }
}

fn directory(home: &Path, shard: ShardId) -> PathBuf {
    home.join(format!("journal/{shard}"))
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> FilesError {
    move |source| FilesError::Io { path: path.to_path_buf(), operation, source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn size_of_file(path: &Path) -> Result<u64, FilesError> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(io_error(path, "examined")(e)),
    }
}

/// Gives a file its size: cut, or continued with zeros. Out of room it gets its old size back, so that a start with the old
/// settings still works on a full disk.
fn set_size(path: &Path, size: u64) -> Result<(), FilesError> {
    let old = size_of_file(path)?;
    let mut file =
        OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path).map_err(io_error(path, "opened"))?;
    if old > size {
        file.set_len(size).map_err(io_error(path, "cut"))?;
    }
    let written = append_zeros(&mut file, size.saturating_sub(old)).and_then(|()| file.sync_all());
    if let Err(e) = written {
        if is_full(&e) {
            let _ = if old == 0 { std::fs::remove_file(path) } else { file.set_len(old) };
        }
        return Err(io_error(path, "written")(e));
    }
    Ok(())
}

fn append_zeros(file: &mut File, mut missing: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_SIZE.min(missing as usize)];
    while missing > 0 {
        let piece = missing.min(ZEROS_SIZE as u64);
        file.write_all(&zeros[..piece as usize])?;
        missing -= piece;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), FilesError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error(path, "synced"))
}

fn open_all(paths: &[PathBuf], flags: OFlags) -> Result<Vec<OwnedFd>, FilesError> {
    let open = |path: &PathBuf| {
        let flags = flags.bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        file.map(OwnedFd::from).map_err(io_error(path, "opened"))
    };
    paths.iter().map(open).collect()
}

/// Opens the segments for direct writes, or says that the file system refuses them: some at open, some only when a write
/// comes, some only for blocks as small as ours.
fn open_direct(paths: &[PathBuf]) -> Result<Option<Vec<OwnedFd>>, FilesError> {
    let descriptors = match open_all(paths, OFlags::DIRECT) {
        Err(FilesError::Io { source, .. }) if is_refusal(&source) => return Ok(None),
        descriptors => descriptors?,
    };
    let mut block = PageBuffer::new();
    block.reset(BLOCK_SIZE as usize);
    block.bytes_mut().fill(0);
    // The second block: the first would do even where larger blocks are asked for.
    let written =
        rustix::io::pwritev2(&descriptors[0], &[IoSlice::new(block.bytes())], BLOCK_SIZE, ReadWriteFlags::DSYNC);
    match written.map_err(io::Error::from) {
        Ok(written) if written == block.bytes().len() => Ok(Some(descriptors)),
        Ok(_) => Ok(None),
        Err(e) if is_refusal(&e) => Ok(None),
        Err(e) => Err(io_error(&paths[0], "written")(e)),
    }
}

/// What was written as zeros, read by a replay or written with `-N` leaves the page cache: a direct write to cached pages has to
/// drop them first, which the kernel does not do during a submission to a ring, but on a worker thread of its own.
fn leave_page_cache(descriptors: &[OwnedFd], paths: &[PathBuf]) -> Result<(), FilesError> {
    for (descriptor, path) in descriptors.iter().zip(paths) {
        // Only clean pages can be dropped.
        rustix::fs::fdatasync(descriptor).map_err(|e| io_error(path, "synced")(e.into()))?;
        // Advice: without it writes are only slower.
        let _ = rustix::fs::fadvise(descriptor, 0, None, rustix::fs::Advice::DontNeed);
    }
    Ok(())
}

fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Position, Salt, Seq};
    use crate::journal::{SEGMENTS, START, Writer, WriterConfig, replay};
    use std::convert::Infallible;
    use std::os::unix::fs::MetadataExt;

    const SIZE: u64 = 16 * BLOCK_SIZE;
    const SHARD: ShardId = ShardId(2);

    fn open(home: &Path, size: u64, mode: Mode) -> Files {
        Files::open_or_create(home, SHARD, size, SEGMENTS, mode).unwrap()
    }

    fn segment(home: &Path, segment: u32) -> PathBuf {
        home.join(segment_name(SHARD, segment))
    }

    fn inodes(home: &Path) -> Vec<(u64, u64)> {
        let facts = |n| segment(home, n).metadata().map(|m| (m.ino(), m.len())).unwrap();
        (0..SEGMENTS).map(facts).collect()
    }

    #[test]
    fn segments_are_made_whole_and_reused() {
        let home = tempfile::tempdir().unwrap();
        let files = open(home.path(), SIZE, Mode::Buffered);
        assert_eq!(files.descriptors().len(), 4);
        assert_eq!(files.sync_method(), SyncMethod::PageCache);
        let made = inodes(home.path());
        assert!(made.iter().all(|(_, size)| *size == SIZE));
        let blocks = segment(home.path(), 0).metadata().unwrap().blocks();
        assert!(blocks * 512 >= SIZE, "the blocks are there before they are needed");
        assert_eq!(segment(home.path(), 0).metadata().unwrap().mode() & 0o007, 0);
        drop(files);
        std::fs::write(segment(home.path(), 1), vec![7; SIZE as usize]).unwrap();
        open(home.path(), SIZE, Mode::Buffered);
        assert_eq!(inodes(home.path()), made);
        assert_eq!(std::fs::read(segment(home.path(), 1)).unwrap(), vec![7; SIZE as usize], "reuse costs no writing");
    }

    #[test]
    fn segments_get_a_new_size() {
        let home = tempfile::tempdir().unwrap();
        for size in [SIZE, 2 * SIZE, SIZE / 2] {
            open(home.path(), size, Mode::Direct);
            assert!(inodes(home.path()).iter().all(|(_, len)| *len == size));
        }
    }

    fn write_and_replay(home: &Path, mode: Mode) -> SyncMethod {
        let files = open(home, SIZE, mode);
        let salt = Salt([3; 16]);
        let unsynced = mode == Mode::Buffered;
        let mut writer = Writer::new(WriterConfig {
            shard: SHARD,
            salt,
            segment_size: SIZE,
            segments: SEGMENTS,
            depth: 2,
            unsynced,
        });
        let flags = match files.sync_method() {
            SyncMethod::DirectDsync => ReadWriteFlags::DSYNC,
            _ => ReadWriteFlags::empty(),
        };
        for seq in 1..=20u64 {
            let write = writer.append(Seq(seq), Seq(seq - 1), &vec![seq as u8; 700 * seq as usize]);
            let fd = &files.descriptors()[write.segment as usize];
            let written = rustix::io::pwritev2(fd, &[IoSlice::new(write.buffer.bytes())], write.offset, flags).unwrap();
            assert_eq!(written, write.buffer.bytes().len());
            writer.written(write.token, write.buffer);
        }
        files.sync_all().unwrap();
        let mut source = FileSource::open(home, SHARD, SEGMENTS).unwrap();
        let mut sum = 0;
        let mut each = |seq: Seq, mutations: &[u8], _: Position| -> Result<(), Infallible> {
            assert_eq!(mutations, vec![seq.0 as u8; 700 * seq.0 as usize]);
            sum += seq.0;
            Ok(())
        };
        let outcome = replay(&mut source, SHARD, &salt, START, &mut each).unwrap();
        assert_eq!((outcome.records, outcome.torn, sum), (20, None, 210));
        files.sync_method()
    }

    #[test]
    fn what_is_written_comes_back() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(write_and_replay(home.path(), Mode::Buffered), SyncMethod::PageCache);
        assert_ne!(write_and_replay(home.path(), Mode::Direct), SyncMethod::PageCache);
    }

    #[test]
    fn the_file_system_decides_how_records_are_synced() {
        // Where there is a tmpfs, it is another kind of file system than most temporary directories.
        for parent in ["/dev/shm", "/var/tmp"] {
            let Ok(home) = tempfile::tempdir_in(parent) else { continue };
            let method = write_and_replay(home.path(), Mode::Direct);
            let opened =
                OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(segment(home.path(), 0));
            if opened.is_err() {
                assert_eq!(method, SyncMethod::WriteThenFdatasync);
            }
        }
    }

    #[test]
    fn a_journal_that_is_not_whole_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let problem = || match FileSource::open(home.path(), SHARD, SEGMENTS) {
            Err(error @ FilesError::NotWhole { .. }) => error.to_string(),
            other => panic!("expected a refusal, got {other:?}"),
        };
        assert!(problem().contains("segment-0 is missing"));
        open(home.path(), SIZE, Mode::Buffered);
        assert_eq!(FileSource::open(home.path(), SHARD, SEGMENTS).unwrap().segment_size(), SIZE);
        OpenOptions::new().write(true).open(segment(home.path(), 3)).unwrap().set_len(SIZE - 4096).unwrap();
        assert!(problem().contains("segment-3 has 61440 bytes"));
        std::fs::remove_file(segment(home.path(), 2)).unwrap();
        assert!(problem().contains("segment-2 is missing"));
    }

    #[test]
    fn journals_are_found_and_removed() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(existing(home.path()).unwrap(), []);
        for shard in [10, 2, 0] {
            Files::open_or_create(home.path(), ShardId(shard), SIZE, SEGMENTS, Mode::Buffered).unwrap();
        }
        for foreign in ["02", "notes", "70000"] {
            std::fs::create_dir(home.path().join("journal").join(foreign)).unwrap();
        }
        assert_eq!(existing(home.path()).unwrap(), [ShardId(0), ShardId(2), ShardId(10)]);
        remove(home.path(), ShardId(2)).unwrap();
        remove(home.path(), ShardId(2)).unwrap();
        assert_eq!(existing(home.path()).unwrap(), [ShardId(0), ShardId(10)]);
    }

    #[test]
    fn a_full_disk_is_told_with_what_is_needed() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory(home.path(), SHARD)).unwrap();
        std::fs::write(segment(home.path(), 0), vec![0; 4096]).unwrap();
        std::os::unix::fs::symlink("/dev/full", segment(home.path(), 1)).unwrap();
        let error = Files::open_or_create(home.path(), SHARD, SIZE, SEGMENTS, Mode::Direct).unwrap_err();
        assert!(matches!(error, FilesError::Full { needed, .. } if needed == 4 * SIZE - 4096), "{error}");
        assert!(error.to_string().contains("258048 bytes"), "{error}");
        assert!(!segment(home.path(), 1).exists(), "what could not be finished is taken away");
    }

    #[test]
    fn errors_name_the_place() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("journal"), b"a file in the way").unwrap();
        let error = Files::open_or_create(home.path(), SHARD, SIZE, SEGMENTS, Mode::Direct).unwrap_err().to_string();
        assert!(error.contains("journal/2"), "{error}");
    }
}
