//! From a packet to a question, and from what is to be said back to a packet. Pure: whatever the bytes are, there is an answer,
//! an error that the asker understands, or silence.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// The longest answer over UDP, whatever the asker can take: more would be cut into fragments on the way (dnsflagday.net/2020).
const DATAGRAM: u16 = 1232;
/// Without EDNS (RFC 1035).
const CLASSIC: u16 = 512;
const HEADER: usize = 12;

/// What a packet came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// One question, understood.
#[derive(Clone, Debug)]
pub struct Question {
    id: u16,
    transport: Transport,
    query: Query,
    recursion_desired: bool,
    checking_disabled: bool,
    edns: Option<Edns>,
}

/// What there is to say, but for what follows from the question.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub code: ResponseCode,
    /// Said by who knows, and not passed on.
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    pub fn of(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}

/// What a packet is.
#[derive(Clone, Debug)]
pub enum Packet {
    Question(Question),
    /// No question that could be answered; this is said to whoever sent it.
    Refused(Vec<u8>),
    /// Nothing is said to it: cut before the end of its header, or an answer itself (saying something to that would go on for ever).
    Void,
}

/// What the packet is.
pub fn read(bytes: &[u8], transport: Transport) -> Packet {
    let Some(&[high, low, flags, _, ..]) = bytes.get(..HEADER) else { return Packet::Void };
    let id = u16::from_be_bytes([high, low]);
    if flags & 0x80 != 0 {
        return Packet::Void;
    }
    let code = OpCode::from_u8((flags >> 3) & 0x0f);
    let refused = |response: ResponseCode, message: Option<Message>| {
        let mut error = Message::error_msg(id, code, response);
        error.metadata.recursion_desired = flags & 1 != 0;
        if let Some(message) = message {
            error.edns = message.edns.is_some().then(own_edns);
            error.queries = message.queries;
            error.queries.truncate(1);
        }
        encode(&error, CLASSIC).map_or(Packet::Void, Packet::Refused)
    };
    if code != OpCode::Query {
        return refused(ResponseCode::NotImp, None);
    }
    let Ok(message) = Message::from_vec(bytes) else { return refused(ResponseCode::FormErr, None) };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return refused(ResponseCode::BADVERS, Some(message));
    }
    let [query] = message.queries.as_slice() else { return refused(ResponseCode::FormErr, None) };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || transfer {
        return refused(ResponseCode::Refused, Some(message));
    }
    Packet::Question(Question {
        id,
        transport,
        query: query.clone(),
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns,
    })
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM).set_version(0);
    edns
}

/// `message`, cut at `limit` with the mark that says so.
fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(CLASSIC));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    Some(bytes)
}

impl Question {
    pub fn name(&self) -> &Name {
        self.query.name()
    }

    pub fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// As it is passed on.
    pub fn query(&self) -> &Query {
        &self.query
    }

    pub fn recursion_desired(&self) -> bool {
        self.recursion_desired
    }

    pub fn checking_disabled(&self) -> bool {
        self.checking_disabled
    }

    /// Whether signatures are to come along.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// What an answer may be long.
    fn limit(&self) -> u16 {
        match (self.transport, &self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(CLASSIC, DATAGRAM),
            (Transport::Udp, None) => CLASSIC,
        }
    }

    /// The packet that says `reply`; nothing where it cannot be said at all.
    pub fn answer(&self, reply: Reply) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.response_code = reply.code;
        message.metadata.authoritative = reply.authoritative;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.edns = self.edns.as_ref().map(|asked| {
            let mut edns = own_edns();
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        message.queries = vec![self.query.clone()];
        message.answers = reply.answers;
        message.authorities = reply.authorities;
        message.additionals = reply.additionals;
        let limit = self.limit();
        let bytes = encode(&message, limit)?;
        // Where the answers fill it, what says how much we take would be left out.
        if message.edns.is_some() && is_cut(&bytes) {
            let mut cut = message.truncate();
            cut.metadata.truncation = true;
            return encode(&cut, limit);
        }
        Some(bytes)
    }
}

fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{RData, rdata::A};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn asking(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.edns = edns.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_version(0);
            edns
        });
        message
    }

    fn question(message: &Message, transport: Transport) -> Question {
        match read(&message.to_vec().unwrap(), transport) {
            Packet::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(bytes: &[u8]) -> Message {
        match read(bytes, Transport::Udp) {
            Packet::Refused(answer) => Message::from_vec(&answer).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn many(count: u8) -> Reply {
        let record = |last| {
            let name = Name::from_ascii("web.stampede.internal.").unwrap();
            Record::from_rdata(name, 2, RData::A(A(Ipv4Addr::new(10, 42, 7, last))))
        };
        Reply { authoritative: true, answers: (0..count).map(record).collect(), ..Reply::of(ResponseCode::NoError) }
    }

    #[test]
    fn an_answer_is_told_to_the_question() {
        let asked = asking("WeB.stampede.internal.", RecordType::A, None);
        let bytes = question(&asked, Transport::Udp).answer(many(2)).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(
            (answer.metadata.id, answer.queries[0].name().to_ascii()),
            (asked.metadata.id, "WeB.stampede.internal.".into())
        );
        assert_eq!((answer.answers.len(), answer.edns), (2, None));
        let flags = answer.metadata;
        assert!(flags.authoritative && flags.recursion_available && flags.recursion_desired && !flags.truncation);
    }

    #[test]
    fn what_is_too_long_for_a_datagram_is_cut_and_says_so() {
        let answer = |edns, transport| {
            let asked = asking("web.stampede.internal.", RecordType::A, edns);
            let bytes = question(&asked, transport).answer(many(200)).unwrap();
            (bytes.len(), Message::from_vec(&bytes).unwrap())
        };
        let (length, cut) = answer(None, Transport::Udp);
        assert!(length <= 512 && cut.metadata.truncation);
        let (length, cut) = answer(Some(4096), Transport::Udp);
        assert!(length <= 1232 && cut.metadata.truncation && cut.edns.is_some(), "no fragments, and EDNS stays");
        let (_, cut) = answer(Some(100), Transport::Udp);
        assert!(cut.metadata.truncation);
        let (_, whole) = answer(Some(1232), Transport::Tcp);
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    }

    #[test]
    fn what_is_no_question_is_told_so_or_not_answered() {
        let good = asking("web.", RecordType::A, Some(1232)).to_vec().unwrap();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert!(matches!(read(&good[..11], Transport::Udp), Packet::Void), "not even a header");
        assert!(matches!(read(&with(2, 0x81), Transport::Udp), Packet::Void), "an answer is not answered");
        for opcode in [1_u8, 2, 4, 5, 6, 15] {
            let answer = refusal(&with(2, (opcode << 3) | 1));
            assert_eq!(
                (answer.metadata.response_code, answer.metadata.id.to_be_bytes()),
                (ResponseCode::NotImp, [good[0], good[1]])
            );
        }
        assert_eq!(refusal(&good[..14]).metadata.response_code, ResponseCode::FormErr, "cut");
        assert_eq!(
            refusal(&with(5, 2)).metadata.response_code,
            ResponseCode::FormErr,
            "two questions are said and one is there"
        );
        assert_eq!(refusal(&with(5, 0)).metadata.response_code, ResponseCode::FormErr, "no question");
        let mut version = asking("web.", RecordType::A, Some(1232));
        version.edns.as_mut().unwrap().set_version(1);
        let version = refusal(&version.to_vec().unwrap());
        assert_eq!(u16::from(version.metadata.response_code), 16, "BADVERS (RFC 6891)");
        assert!(version.edns.is_some());
        let transfer = asking("stampede.internal.", RecordType::AXFR, None).to_vec().unwrap();
        assert_eq!(refusal(&transfer).metadata.response_code, ResponseCode::Refused);
        let mut chaos = asking("version.bind.", RecordType::TXT, None);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(refusal(&chaos.to_vec().unwrap()).metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn a_name_that_points_at_itself_is_no_name() {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(refusal(&bytes).metadata.response_code, ResponseCode::FormErr);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn rubbish_is_answered_at_most_by_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Packet::Question(question) = read(&bytes, Transport::Udp) {
                let answer = question.answer(many(3)).map(|answer| Message::from_vec(&answer).is_ok());
                prop_assert_ne!(answer, Some(false));
            }
        }

        #[test]
        fn a_question_with_some_bytes_changed_or_cut_does_no_harm(
            changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..6),
            cut in 0..80_usize,
            doubled in any::<bool>(),
        ) {
            let mut bytes = asking("web.stampede.internal.", RecordType::A, Some(1400)).to_vec().unwrap();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut.max(1));
            if doubled {
                bytes.extend(bytes.clone());
            }
            match read(&bytes, Transport::Udp) {
                Packet::Question(question) => {
                    let answer = question.answer(many(100)).unwrap();
                    prop_assert!(answer.len() <= 1232 && answer[..2] == bytes[..2] && answer[2] & 0x80 != 0);
                }
                Packet::Refused(answer) => {
                    prop_assert!(answer.len() <= 512 && answer[..2] == bytes[..2] && answer[2] & 0x80 != 0);
                }
                Packet::Void => prop_assert!(bytes.len() < HEADER || bytes[2] & 0x80 != 0),
            }
        }
    }
}
