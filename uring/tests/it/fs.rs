//! Files: direct and buffered, whole and short, one and many at a time.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::pin::pin;

use cairn_uring::buf::ALIGN;
use cairn_uring::fs::{File, OpenOptions};
use cairn_uring::{AlignedBuf, Config, Reactor, Slice, spawn};
use tempfile::TempDir;

use super::{limited, pattern, run, tiny_reactor};

/// On the file system of the build, since not every `/tmp` has `O_DIRECT`.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn create(folder: &TempDir, direct: bool) -> File {
    let options = OpenOptions { read: true, write: true, create_new: true, direct, ..OpenOptions::default() };
    File::open(&folder.path().join("file"), options).unwrap()
}

fn aligned(bytes: &[u8]) -> AlignedBuf {
    let mut buf = AlignedBuf::new(bytes.len());
    buf.copy_from_slice(bytes);
    buf
}

#[test]
fn direct_writes_in_more_pieces_than_one_call_takes() {
    run(async {
        let folder = folder();
        let file = create(&folder, true);
        assert!(file.is_direct());
        let bytes = pattern(1500 * ALIGN, 1);
        let mut rest = aligned(&bytes);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let next = rest.split_off(ALIGN);
            pieces.push(std::mem::replace(&mut rest, next));
        }
        let (result, pieces) = file.writev_all_at(pieces, 3 * ALIGN as u64).await;
        result.unwrap();
        let whole = pieces.into_iter().reduce(|mut whole, piece| {
            whole.join(piece);
            whole
        });
        assert!(*whole.unwrap() == *bytes);
        file.sync_data().await.unwrap();
        assert_eq!(file.len().unwrap(), 1503 * ALIGN as u64);

        let (result, buf) = file.read_exact_at(AlignedBuf::new(1503 * ALIGN), 0).await;
        result.unwrap();
        assert!(buf[..3 * ALIGN].iter().all(|byte| *byte == 0));
        assert!(buf[3 * ALIGN..] == *bytes);
    });
}

// On a tmpfs, operations are done where they are polled; what they give, and that others get their turn, is the same.
#[test]
fn files_in_memory_behave_like_others_and_let_others_run() {
    run(async {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let file = create(&folder, false);
        let bytes = pattern(5 * ALIGN + 100, 2);
        let (result, _) = file.write_all_at(bytes[..ALIGN].to_vec(), 0).await;
        result.unwrap();
        let pieces = bytes[ALIGN..].chunks(1000).map(<[u8]>::to_vec).collect();
        let (result, _) = file.writev_all_at(pieces, ALIGN as u64).await;
        result.unwrap();
        file.sync_data().await.unwrap();
        file.sync_all().await.unwrap();
        let (result, buf) = file.read_exact_at(vec![0; bytes.len()], 0).await;
        result.unwrap();
        assert!(buf == bytes);
        let (result, buf) = file.read_at(buf, bytes.len() as u64 - 10).await;
        assert_eq!(result.unwrap(), 10);
        let (result, buf) = file.read_exact_at(buf, 1).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let (result, _) = file.read_at(buf, u64::MAX).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);

        // A timer fires although this task never finds anything to wait for.
        let fired = spawn(cairn_uring::sleep(std::time::Duration::from_millis(1)));
        let mut buf = vec![0; ALIGN];
        while !fired.is_finished() {
            let result;
            (result, buf) = file.read_exact_at(buf, 0).await;
            result.unwrap();
        }
    });
}

#[test]
fn direct_refuses_what_is_not_aligned() {
    run(async {
        let folder = folder();
        let file = create(&folder, true);
        let (result, buf) = file.write_all_at(AlignedBuf::zeroed(ALIGN), 1).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
        let (result, _) = file.write_all_at(buf, 0).await;
        result.unwrap();
    });
}

#[test]
fn the_end_of_the_file() {
    for direct in [false, true] {
        run(async {
            let folder = folder();
            let file = create(&folder, direct);
            let bytes = pattern(3 * ALIGN, 2);
            file.write_all_at(aligned(&bytes), 0).await.0.unwrap();
            // Two blocks and a part.
            file.set_len(10_000).unwrap();
            let (result, buf) = file.read_at(AlignedBuf::new(4 * ALIGN), 0).await;
            assert_eq!(result.unwrap(), 10_000, "direct: {direct}");
            assert!(buf[..10_000] == bytes[..10_000]);
            let (result, buf) = file.read_exact_at(buf, 0).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof, "direct: {direct}");
            assert_eq!(buf.len(), 4 * ALIGN);
            let (result, _) = file.read_at(AlignedBuf::new(ALIGN), 4 * ALIGN as u64).await;
            assert_eq!(result.unwrap(), 0);
            let (result, _) = file.read_exact_at(AlignedBuf::new(ALIGN), ALIGN as u64).await;
            result.unwrap();
        });
    }
}

#[test]
fn slices_and_vectors_are_buffers() {
    run(async {
        let file = File::from_std(tempfile::tempfile().unwrap());
        assert!(!file.is_direct());
        let bytes = pattern(1000, 3);
        let (result, slice) = file.write_all_at(Slice::new(bytes.clone(), 100..900), 7).await;
        result.unwrap();
        assert_eq!(slice.into_inner(), bytes);
        let (result, boxed) = file.read_exact_at(vec![0; 800].into_boxed_slice(), 7).await;
        result.unwrap();
        assert_eq!(*boxed, bytes[100..900]);
        let parts = vec![bytes[..10].to_vec(), Vec::new(), bytes[10..].to_vec()];
        let (result, parts) = file.writev_all_at(parts, 5000).await;
        result.unwrap();
        assert_eq!(parts.concat(), bytes);

        let mut through_std = Vec::new();
        let mut std = std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap());
        std.seek(SeekFrom::Start(5000)).unwrap();
        std.read_to_end(&mut through_std).unwrap();
        assert_eq!(through_std, bytes);
    });
}

#[test]
fn empty_transfers_do_nothing() {
    run(async {
        let file = File::from_std(tempfile::tempfile().unwrap());
        file.write_all_at(Vec::new(), 10).await.0.unwrap();
        file.writev_all_at(Vec::<Vec<u8>>::new(), 10).await.0.unwrap();
        file.writev_all_at(vec![Vec::new(); 3], 10).await.0.unwrap();
        file.read_exact_at(AlignedBuf::new(0), 10).await.0.unwrap();
        assert_eq!(file.len().unwrap(), 0);
    });
}

#[test]
fn errors_give_the_buffer_back() {
    run(async {
        let folder = folder();
        let path = folder.path().join("file");
        let write_only = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        let file = File::open(&path, write_only).unwrap();
        let (result, buf) = file.read_at(vec![7; 10], 0).await;
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(buf, [7; 10]);
        for offset in [u64::MAX, u64::MAX - 5, i64::MAX as u64 - 5] {
            let (result, _) = file.write_all_at(vec![0; 10], offset).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "offset {offset}");
            let (result, _) = file.writev_all_at(vec![vec![0; 5]; 2], offset).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "offset {offset}");
        }
        assert_eq!(file.len().unwrap(), 0);
        let create_new = OpenOptions { create_new: true, ..write_only };
        assert_eq!(File::open(&path, create_new).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let not_a_disk = File::from_std(std::fs::File::from(std::os::fd::OwnedFd::from(socket)));
        assert_eq!(not_a_disk.len().unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn space_is_allocated_and_given_back() {
    run(async {
        let folder = folder();
        let file = create(&folder, false);
        file.allocate(0, 1 << 20).await.unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        file.write_all_at(vec![0xff; 1 << 20], 0).await.0.unwrap();
        file.sync_all().await.unwrap();
        file.punch_hole(1 << 18, 1 << 19).await.unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        let (result, buf) = file.read_exact_at(vec![1; 1 << 20], 0).await;
        result.unwrap();
        let hole = 1 << 18..(1 << 18) + (1 << 19);
        assert!(buf.iter().enumerate().all(|(index, byte)| (*byte == 0) == hole.contains(&index)));
    });
}

#[test]
fn more_operations_than_the_queues_hold() {
    let mut reactor = tiny_reactor();
    reactor.block_on(limited(async {
        let folder = folder();
        let file = create(&folder, true);
        let count = 500_u64;
        let start = |index: u64, write: bool| {
            let file = file.clone();
            spawn(async move {
                let bytes = pattern(ALIGN, index);
                let offset = index * ALIGN as u64;
                if write {
                    file.write_all_at(aligned(&bytes), offset).await.0.unwrap();
                } else {
                    let (result, buf) = file.read_exact_at(AlignedBuf::new(ALIGN), offset).await;
                    result.unwrap();
                    assert!(*buf == *bytes, "block {index}");
                }
            })
        };
        for write in [true, false] {
            let tasks: Vec<_> = (0..count).map(|index| start(index, write)).collect();
            for task in tasks {
                task.await;
            }
        }
    }));
}

#[test]
fn one_file_serves_several_reactors() {
    let folder = folder();
    let file = create(&folder, true);
    let reactors: Vec<_> = (0..3).map(|_| Reactor::start(Config::default()).unwrap()).collect();
    let joins: Vec<_> = reactors
        .iter()
        .zip(0_u64..)
        .map(|(reactor, lane)| {
            let file = if lane == 0 { file.clone() } else { file.try_clone().unwrap() };
            let work = move || async move {
                for round in 0..50 {
                    let offset = (round * 3 + lane) * ALIGN as u64;
                    file.write_all_at(aligned(&pattern(ALIGN, offset)), offset).await.0.unwrap();
                }
                file.sync_data().await
            };
            reactor.handle().spawn_with(work).unwrap()
        })
        .collect();
    for join in joins {
        join.wait().unwrap().unwrap();
    }
    for reactor in reactors {
        reactor.join().unwrap();
    }
    run(async {
        for block in 0..150 {
            let offset = block * ALIGN as u64;
            let (result, buf) = file.read_exact_at(AlignedBuf::new(ALIGN), offset).await;
            result.unwrap();
            assert!(*buf == *pattern(ALIGN, offset), "block {block}");
        }
    });
}

// A read of 32 MiB from a tmpfs was one copy, which kept the reactor for 6 ms.
#[test]
fn long_copies_take_many_turns() {
    async fn turns<T>(future: impl Future<Output = T>) -> (T, usize) {
        let mut future = pin!(future);
        let mut turns = 0;
        let done = poll_fn(|cx| {
            turns += 1;
            future.as_mut().poll(cx)
        })
        .await;
        (done, turns)
    }

    const LEN: usize = 8 << 20;
    run(async {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let file = create(&folder, false);
        let bytes = pattern(LEN, 3);
        let ((result, bytes), writing) = turns(file.write_all_at(bytes, 0)).await;
        result.unwrap();
        let ((result, copy), reading) = turns(file.read_exact_at(vec![0; LEN], 0)).await;
        result.unwrap();
        assert!(copy == bytes);
        let pieces = vec![copy[..LEN / 2 + 5].to_vec(), copy[LEN / 2 + 5..].to_vec()];
        let ((result, _), gathering) = turns(file.writev_all_at(pieces, LEN as u64)).await;
        result.unwrap();
        let (result, again) = file.read_exact_at(copy, LEN as u64).await;
        result.unwrap();
        assert!(again == bytes);
        for turns in [writing, reading, gathering] {
            assert!(turns >= LEN >> 20, "{turns} turns");
        }
    });
}
