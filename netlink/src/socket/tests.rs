use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;

use super::*;

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

/// A socket in a network namespace of its own, which lives as long as the socket.
fn elsewhere() -> Socket {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        make(NETLINK_ROUTE, &[]).unwrap()
    });
    made.join().unwrap()
}

/// struct ifaddrmsg of `lo`, and IFA_LOCAL.
fn address(number: u16) -> Message {
    let [high, low] = number.to_be_bytes();
    let mut payload = vec![2, 32, 0, 0];
    payload.extend(1u32.to_ne_bytes());
    payload.extend(8u16.to_ne_bytes());
    payload.extend(2u16.to_ne_bytes());
    payload.extend([10, 0, high, low]);
    Message { kind: RTM_NEWADDR, flags: NLM_F_CREATE | NLM_F_EXCL, payload }
}

fn list() -> Message {
    Message { kind: RTM_GETADDR, flags: 0, payload: vec![0; 8] }
}

#[tokio::test]
async fn every_message_of_one_call_has_its_own_result() {
    let channel = Channel::new(elsewhere()).unwrap();
    let results = channel.request(&[address(1), address(1), address(2)]).await.unwrap();
    let refused = |result: &Result<Vec<Frame>, RequestError>| {
        matches!(result, Err(RequestError::Refused { errno: Errno::EXIST, .. }))
    };
    assert_eq!(results.iter().map(refused).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(channel.dump(&list()).await.unwrap().len(), 2);
}

/// A dump of many parts whose reader went away: the next one is whole and not refused as busy.
#[tokio::test]
async fn an_exchange_that_was_given_up_does_not_disturb_the_next() {
    const COUNT: u16 = 2000;
    let channel = Channel::new(elsewhere()).unwrap();
    let all: Vec<_> = (1..=COUNT).map(address).collect();
    assert!(channel.request(&all).await.unwrap().iter().all(Result::is_ok));
    for _ in 0..3 {
        let mut exchange = channel.exchange.lock().await;
        exchange.begin();
        let sequence = exchange.number(1);
        let mut bytes = Vec::new();
        list().write(NLM_F_REQUEST | NLM_F_DUMP, sequence, &mut bytes);
        exchange.send(&bytes).await.unwrap();
        drop(exchange);
        assert_eq!(channel.dump(&list()).await.unwrap().len(), usize::from(COUNT));
    }
}

#[tokio::test]
async fn exchanges_at_once_do_not_mix() {
    let channel = std::sync::Arc::new(Channel::new(elsewhere()).unwrap());
    let tasks: Vec<_> = (0..50u16)
        .map(|number| {
            let channel = channel.clone();
            tokio::spawn(async move {
                let made = channel.request(&[address(number)]).await.unwrap();
                assert!(made[0].is_ok());
                // Some give up as soon as they wait; nobody else must notice.
                let _ = timeout(Duration::from_micros(u64::from(number)), channel.dump(&list())).await;
                channel.dump(&list()).await.unwrap().len()
            })
        })
        .collect();
    for task in tasks {
        assert!((1..=50).contains(&task.await.unwrap()));
    }
    assert_eq!(channel.dump(&list()).await.unwrap().len(), 50);
}

#[test]
fn outside_a_runtime_there_is_an_error_and_no_panic() {
    assert!(Channel::new(elsewhere()).is_err());
}

proptest! {
    #[test]
    fn rubbish_from_the_kernel_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(frames) = Frame::split(&bytes) {
            for frame in frames {
                let _ = frame.meaning();
            }
        }
    }

    #[test]
    fn what_is_written_is_split_again(messages in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..30)), 0..6)) {
        let mut bytes = Vec::new();
        for (sequence, (kind, payload)) in (0..).zip(&messages) {
            Message { kind: *kind, flags: 0, payload: payload.clone() }.write(0, sequence, &mut bytes);
        }
        let frames = Frame::split(&bytes).unwrap();
        let read: Vec<_> = frames.into_iter().map(|frame| (frame.kind, frame.payload.clone())).collect();
        prop_assert_eq!(read, messages);
    }
}
