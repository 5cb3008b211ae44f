//! Tokens as EC2 has them (IMDSv2): asked for by PUT, shown with a question, good for who asked for them and for a time.
//!
//! Nothing is kept of them: a token is when it ends, and a proof of that for its asker under a key that this process alone has. With
//! the process they all end, and whoever shows one is told to get another.

use crate::environment::Environment;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// Bytes of when it ends, before the proof.
const END: usize = 8;
/// Bytes of the whole.
const WHOLE: usize = END + 32;

/// See the module's text.
pub struct Tokens {
    key: Zeroizing<[u8; 32]>,
    environment: Environment,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    pub fn new(environment: &Environment) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        environment.random.fill(key.as_mut_slice());
        Self { key, environment: environment.clone() }
    }

    /// Seconds since boot.
    fn now(&self) -> u64 {
        self.environment.clock.boottime().as_secs()
    }

    fn proof(&self, asker: &str, end: &[u8]) -> Option<Hmac<Sha256>> {
        let mut proof = Hmac::<Sha256>::new_from_slice(self.key.as_slice()).ok()?;
        proof.update(end);
        proof.update(asker.as_bytes());
        Some(proof)
    }

    /// One for `asker`, good for `life`.
    pub fn issue(&self, asker: &str, life: Duration) -> Option<String> {
        let end = self.now().saturating_add(life.as_secs()).to_be_bytes();
        let proof = self.proof(asker, &end)?.finalize().into_bytes();
        Some(URL_SAFE_NO_PAD.encode([end.as_slice(), proof.as_slice()].concat()))
    }

    /// Whether it is one of `asker`'s, and its time is not over.
    pub fn holds(&self, asker: &str, token: &[u8]) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else { return false };
        if bytes.len() != WHOLE {
            return false;
        }
        let (end, proof) = bytes.split_at(END);
        let Some(expected) = self.proof(asker, end) else { return false };
        if expected.verify_slice(proof).is_err() {
            return false;
        }
        <[u8; END]>::try_from(end).is_ok_and(|end| self.now() < u64::from_be_bytes(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Clock, Timestamp};
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn boottime(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    fn tokens() -> (Tokens, Arc<Hand>) {
        let hand = Arc::new(Hand::default());
        let environment = Environment { clock: hand.clone(), ..Environment::system().unwrap() };
        (Tokens::new(&environment), hand)
    }

    #[test]
    fn good_for_its_asker_and_for_its_time() {
        let (tokens, hand) = tokens();
        let token = tokens.issue("1i1 10.42.7.9", Duration::from_secs(60)).unwrap();
        assert!(tokens.holds("1i1 10.42.7.9", token.as_bytes()));
        assert!(!tokens.holds("1i2 10.42.7.9", token.as_bytes()), "another's");
        assert!(!tokens.holds("1i1 10.42.7.10", token.as_bytes()), "at another address");
        hand.0.store(59, Ordering::Relaxed);
        assert!(tokens.holds("1i1 10.42.7.9", token.as_bytes()));
        hand.0.store(60, Ordering::Relaxed);
        assert!(!tokens.holds("1i1 10.42.7.9", token.as_bytes()));
        let (others, _) = super::tests::tokens();
        assert!(!others.holds("1i1 10.42.7.9", token.as_bytes()), "of another process");
    }

    proptest! {
        #[test]
        fn nothing_else_is_one(rubbish in prop::collection::vec(any::<u8>(), 0..80), at in 0..54_usize, other in any::<u8>()) {
            let (tokens, _) = tokens();
            prop_assert!(!tokens.holds("a", &rubbish));
            prop_assert!(!tokens.holds("a", URL_SAFE_NO_PAD.encode(&rubbish).as_bytes()));
            let mut token = tokens.issue("a", Duration::from_secs(60)).unwrap().into_bytes();
            if token[at] != other {
                token[at] = other;
                prop_assert!(!tokens.holds("a", &token));
            }
        }
    }
}
