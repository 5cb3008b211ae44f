//! The file: what survives, what is refused, and a full disk.

use crate::conformance::put;
use crate::{environment, within};
use bytes::Bytes;
use proptest::prelude::*;
use stampede::store::embedded::Embedded;
use stampede::store::{Error, Operation, Revision, Store, Transaction};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn open(path: &Path) -> Result<Embedded, Error> {
    Embedded::open(path, &environment())
}

fn unusable(path: &Path) -> String {
    match open(path) {
        Err(Error::Unusable(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store");
    let store = open(&path).unwrap();
    put(&store, "a", "1").await;
    let revision = put(&store, "a", "2").await;
    let before = store.range("").await.unwrap();
    drop(store);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let store = open(&path).unwrap();
    let after = store.range("").await.unwrap();
    assert_eq!((after.revision, &after.entries), (revision, &before.entries));
    assert!(matches!(store.watch("", revision).await, Err(Error::Compacted { .. })));
    assert_eq!(put(&store, "a", "3").await, Revision(revision.0 + 1));
}

#[tokio::test]
async fn leases_of_an_earlier_process_are_gone_with_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    let lease = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    put(&store, "stays", "1").await;
    let leased = Operation::Put { key: "alive".into(), value: "1".into(), lease: Some(lease) };
    let revision = store.commit(Transaction::new().then(leased)).await.unwrap().revision;
    drop(store);
    let store = open(&path).unwrap();
    let keys: Vec<_> = store.range("").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["stays"]);
    assert_eq!(store.get("alive").await.unwrap().revision, Revision(revision.0 + 1));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseGone(_))));
}

#[tokio::test]
async fn a_second_agent_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    put(&store, "a", "1").await;
    let message = unusable(&path);
    assert!(message.contains("is open in another agent"), "{message}");
    put(&store, "a", "2").await;
    // Another process, too.
    drop(store);
    let mut child = writer(&path);
    within("the writer", async { child.line() }).await;
    let message = unusable(&path);
    assert!(message.contains("is open in another agent"), "{message}");
}

#[tokio::test]
async fn files_that_are_none_of_ours_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    for content in [&b""[..], b"{}", &[0; 100_000]] {
        std::fs::write(&path, content).unwrap();
        let message = unusable(&path);
        assert!(message.contains("no store of stampede") && message.contains("move it away"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let message = unusable(&path);
    assert!(message.contains("no store of stampede") && message.contains("move it away"), "{message}");
    // A directory, and a place that is none.
    let message = unusable(directory.path());
    assert!(message.contains("cannot be opened"), "{message}");
    unusable(Path::new("/proc/none/store"));
}

#[tokio::test]
async fn damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    for i in 0..200 {
        put(&store, &format!("k{i}"), &"v".repeat(500)).await;
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let at = whole.windows(100).position(|window| window == [b'v'; 100]).unwrap();
    let mut damaged = whole.clone();
    // The last copy of the values is the one in use; earlier ones are free pages.
    for (offset, byte) in whole.iter().enumerate().skip(at) {
        if *byte == b'v' {
            damaged[offset] = b'w';
        }
    }
    std::fs::write(&path, &damaged).unwrap();
    let message = unusable(&path);
    assert!(message.contains("damaged") && message.contains("backup"), "{message}");
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let message = unusable(&path);
    assert!(message.contains("damaged") || message.contains("cannot be opened"), "{message}");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(open(&path).unwrap().range("").await.unwrap().entries.len(), 200);
}

/// A directory of so many kilobytes, until dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(kilobytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test needs root, to mount a small file system");
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    fill_up(1 << 20, |_| 20_000).await;
}

/// Some of the writes that fail then came through all the same, and count as done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_is_full_at_any_place() {
    for run in 1..=8 {
        fill_up(run << 16 | 1 << 19, |i| (i * 7919 + run * 1009) % 40_000).await;
    }
}

/// Takes `taken` bytes of a small disk, writes values of these sizes until there is no space, and again after there was some.
async fn fill_up(taken: usize, size: impl Fn(usize) -> usize) {
    let disk = SmallDisk::new(4096);
    let path = disk.0.path().join("store");
    let ballast = disk.0.path().join("ballast");
    let store = Arc::new(open(&path).unwrap());
    let mut right: HashMap<String, Bytes> = HashMap::new();
    for round in 0..3 {
        fill(&ballast, taken);
        // Several at a time, so that some share a write.
        let mut full = 0;
        for i in 0..400 {
            let commits = (0..4).map(|j| {
                let (key, value) = (format!("{round}/{i}/{j}"), Bytes::from(vec![b'x'; size(4 * i + j)]));
                let store = store.clone();
                tokio::spawn(async move {
                    let outcome = store.commit(Transaction::new().then(Operation::put(&key, value.clone()))).await;
                    (key, value, outcome)
                })
            });
            for commit in commits.collect::<Vec<_>>() {
                let (key, value, outcome) = commit.await.unwrap();
                match outcome {
                    Ok(_) => drop(right.insert(key, value)),
                    Err(Error::Full { .. }) => full += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            if full > 8 {
                break;
            }
        }
        assert!(full > 8, "the disk became full");
        check(&store, &right).await;
        // Space again: writes succeed, deletions first, on the same store.
        std::fs::remove_file(&ballast).unwrap();
        put(&*store, "small", "1").await;
        right.insert("small".into(), "1".into());
        let gone = Transaction::new().then(Operation::DeletePrefix { prefix: format!("{round}/") });
        store.commit(gone).await.unwrap();
        right.retain(|key, _| !key.starts_with(&format!("{round}/")));
        check(&store, &right).await;
    }
    // What is in memory is what is in the file.
    drop(store);
    check(&open(&path).unwrap(), &right).await;
}

/// Takes up so much of a disk, or what the store has left of it.
fn fill(ballast: &Path, most: usize) {
    let mut file = std::fs::File::create(ballast).unwrap();
    let mut written = 0;
    while written < most
        && let Ok(count @ 1..) = file.write(&[0; 4096])
    {
        written += count;
    }
}

async fn check(store: &Embedded, right: &HashMap<String, Bytes>) {
    let entries = store.range("").await.unwrap().entries;
    let stored: HashMap<String, Bytes> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let (mut left, mut expected): (Vec<_>, Vec<_>) = (stored.keys().collect(), right.keys().collect());
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    assert!(stored == *right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_full_disk_can_be_opened_and_read() {
    let disk = SmallDisk::new(4096);
    let path = disk.0.path().join("store");
    let store = open(&path).unwrap();
    put(&store, "a", "1").await;
    drop(store);
    let mut ballast = std::fs::File::create(disk.0.path().join("ballast")).unwrap();
    while ballast.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
    let store = open(&path).unwrap();
    assert_eq!(store.get("a").await.unwrap().entry.unwrap().value, "1");
    let large = Operation::put("large", Bytes::from(vec![b'x'; 1 << 19]));
    let outcome = store.commit(Transaction::new().then(large.clone())).await;
    assert!(matches!(outcome, Err(Error::Full { .. })), "{outcome:?}");
    drop(ballast);
    std::fs::remove_file(disk.0.path().join("ballast")).unwrap();
    store.commit(Transaction::new().then(large)).await.unwrap();
    // And where there is no space to make one.
    drop(store);
    std::fs::remove_file(&path).unwrap();
    let mut ballast = std::fs::File::create(disk.0.path().join("ballast")).unwrap();
    while ballast.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
    let outcome = open(&path);
    assert!(matches!(outcome, Err(Error::Full { .. })), "{outcome:?}");
    drop(ballast);
    std::fs::remove_file(disk.0.path().join("ballast")).unwrap();
    open(&path).unwrap();
}

/// A process that writes numbers into `path` from several tasks and prints each when it is acknowledged.
struct Writer {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

const WRITER: &str = "STAMPEDE_TEST_WRITER";
/// Tasks that write at the same time.
const TASKS: usize = 4;

fn writer(path: &Path) -> Writer {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["embedded::writer_process", "--exact", "--nocapture"])
        .env(WRITER, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    Writer { child, lines }
}

impl Writer {
    /// The next acknowledged number and its task; `None` at the end.
    fn line(&mut self) -> Option<(usize, u64)> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line may be cut short by the kill; then it was not acknowledged.
            if let Some((task, number)) =
                line.strip_suffix('\n').and_then(|line| line.strip_prefix("ack ")).and_then(|rest| rest.split_once(' '))
            {
                return Some((task.parse().unwrap(), number.parse().unwrap()));
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test of its own: what the writer's process runs. Without the variable there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_process() {
    let Ok(path) = std::env::var(WRITER) else { return };
    let store = Arc::new(open(Path::new(&path)).unwrap());
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("number/{task}");
                let last = store.get(&key).await.unwrap().entry;
                let mut number: u64 =
                    last.map_or(0, |entry| String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap());
                loop {
                    number += 1;
                    // Two keys in one transaction: both or none.
                    let transaction = Transaction::new()
                        .then(Operation::put(&key, Bytes::from(number.to_string())))
                        .then(Operation::put(format!("twin/{task}"), Bytes::from(number.to_string())));
                    store.commit(transaction).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {task} {number}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    // They end by being killed, or by a failure, which then ends all.
    let (ended, _, _) = futures::future::select_all(tasks).await;
    assert!(ended.is_ok(), "a write failed");
}

#[tokio::test]
async fn killed_at_any_moment_it_keeps_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let environment = environment();
    let mut acknowledged = [0_u64; TASKS];
    let mut revision = Revision(0);
    // A busy machine writes little in a round: more of them then.
    let enough = |acknowledged: &[u64]| acknowledged.iter().all(|count| *count > 20);
    for round in 0..400 {
        if round >= 20 && enough(&acknowledged) {
            break;
        }
        let mut writer = writer(&path);
        // In some rounds while it is being created or opened, else amid the writing.
        let wait = Duration::from_micros(environment.below(if round % 4 == 0 { 30_000 } else { 150_000 }) as u64);
        if round % 4 != 0
            && let Some((task, number)) = writer.line()
        {
            acknowledged[task] = acknowledged[task].max(number);
        }
        tokio::time::sleep(wait).await;
        writer.child.kill().unwrap();
        while let Some((task, number)) = writer.line() {
            acknowledged[task] = acknowledged[task].max(number);
        }
        drop(writer);
        let store = open(&path).unwrap();
        for (task, acknowledged) in acknowledged.iter_mut().enumerate() {
            let value = async |name: &str| match store.get(&format!("{name}/{task}")).await.unwrap().entry {
                Some(entry) => String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap(),
                None => 0_u64,
            };
            let stored = value("number").await;
            assert!(
                (*acknowledged..=*acknowledged + 1).contains(&stored) || (*acknowledged == 0 && stored <= 1),
                "round {round}, task {task}: {acknowledged} were acknowledged, {stored} is stored"
            );
            assert_eq!(stored, value("twin").await);
            *acknowledged = stored;
        }
        let now = store.get("x").await.unwrap().revision;
        assert!(now >= revision && now.0 as u64 == 1 + acknowledged.iter().sum::<u64>());
        revision = now;
    }
    assert!(enough(&acknowledged), "{acknowledged:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever it does, after opening it again it is the same.
    #[test]
    fn a_file_opened_again_is_the_same(transactions in prop::collection::vec(crate::model::transaction(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("store");
            let store = open(&path).unwrap();
            for transaction in transactions {
                let _ = store.commit(transaction).await;
            }
            let before = store.range("").await.unwrap();
            drop(store);
            let after = open(&path).unwrap().range("").await.unwrap();
            assert_eq!((before.revision, before.entries), (after.revision, after.entries));
        });
    }
}
