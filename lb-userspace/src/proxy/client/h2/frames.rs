//! Frame heads in a stream of bytes (RFC 9113 section 4.1), for counting alone: payloads are
//! stepped over, and what is malformed is the protocol library's to refuse. Pure.

/// Bytes that a client's connection begins with.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;

/// Types of frames (RFC 9113 section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flag of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of payload.
    pub(crate) length: u32,
    /// See [`kind`].
    pub(crate) kind: u8,
    /// Flags.
    pub(crate) flags: u8,
    /// Stream's number; 0: the connection.
    pub(crate) stream: u32,
    /// Error code of `RST_STREAM` and GOAWAY, else 0.
    pub(crate) code: u32,
}

/// Follows one direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes of payload, or of the preface, that are still to come.
    left: u32,
    /// The frame whose error code is being read, and the bytes to go until it is there.
    coded: Option<(Frame, u32)>,
    /// Between HEADERS without its end and the CONTINUATION that ends it.
    in_block: bool,
    /// The frame that is being stepped over belongs to a block of fields.
    is_block: bool,
}

impl Walker {
    /// For what a client sends: begins with the preface.
    pub(crate) fn of_client() -> Self {
        Self {
            left: PREFACE.len() as u32,
            ..Self::default()
        }
    }

    /// Steps over `bytes` and shows every frame: when its head is there, of those with an error
    /// code when that is.
    pub(crate) fn walk(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        loop {
            if self.left > 0 {
                let step = (self.left as usize).min(bytes.len());
                self.read_code(&bytes[..step], &mut seen);
                self.left -= step as u32;
                bytes = &bytes[step..];
            }
            if bytes.is_empty() {
                return;
            }
            let step = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + step].copy_from_slice(&bytes[..step]);
            self.have += step;
            bytes = &bytes[step..];
            if self.have < HEAD {
                return;
            }
            self.have = 0;
            let [a, b, c, kind, flags, s0, s1, s2, s3] = self.head;
            let frame = Frame {
                length: u32::from_be_bytes([0, a, b, c]),
                kind,
                flags,
                stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
                code: 0,
            };
            self.left = frame.length;
            self.is_block = matches!(kind, kind::HEADERS | kind::CONTINUATION);
            if self.is_block {
                self.in_block = flags & END_HEADERS == 0;
            }
            let code_ends = match kind {
                kind::RST_STREAM if frame.length >= 4 => 4,
                kind::GOAWAY if frame.length >= 8 => 8,
                _ => 0,
            };
            if code_ends == 0 {
                seen(frame);
            } else {
                self.coded = Some((frame, code_ends));
            }
        }
    }

    fn read_code(&mut self, payload: &[u8], seen: &mut impl FnMut(Frame)) {
        let Some((mut frame, mut to_go)) = self.coded.take() else {
            return;
        };
        for byte in payload {
            // The last four bytes are the code.
            if to_go <= 4 {
                frame.code = frame.code << 8 | u32::from(*byte);
            }
            to_go -= 1;
            if to_go == 0 {
                return seen(frame);
            }
        }
        self.coded = Some((frame, to_go));
    }

    /// Whether a frame, or the preface, is there in part.
    pub(crate) fn is_inside(&self) -> bool {
        self.left > 0 || self.have > 0
    }

    /// Whether a block of fields was begun and is not complete.
    pub(crate) fn is_inside_block(&self) -> bool {
        self.in_block || (self.is_block && self.left > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
        out
    }

    #[test]
    fn unfinished_block_of_fields_is_seen_until_its_end() {
        let mut walker = Walker::of_client();
        walker.walk(&PREFACE[..10], |_| panic!("no frame yet"));
        assert!(walker.is_inside());
        walker.walk(&PREFACE[10..], |_| panic!("no frame yet"));
        assert!(!walker.is_inside() && !walker.is_inside_block());
        walker.walk(&frame(kind::HEADERS, 0, 1, b"xy"), |_| {});
        assert!(walker.is_inside_block() && !walker.is_inside());
        let last = frame(kind::CONTINUATION, END_HEADERS, 1, b"xyz");
        walker.walk(&last[..=HEAD], |_| {});
        assert!(walker.is_inside_block());
        walker.walk(&last[HEAD + 1..], |_| {});
        assert!(!walker.is_inside_block());
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..12, 0_u8..6, 0_u32..9, 0_usize..40), 0..20),
            cuts in prop::collection::vec(1_usize..30, 1..200),
        ) {
            let mut bytes = PREFACE.to_vec();
            let mut expected = Vec::new();
            for (kind, flags, stream, length) in frames {
                let payload: Vec<u8> = (1..=length as u8).collect();
                bytes.extend(frame(kind, flags, stream, &payload));
                let code = match kind {
                    kind::RST_STREAM if length >= 4 => 0x0102_0304,
                    kind::GOAWAY if length >= 8 => 0x0506_0708,
                    _ => 0,
                };
                expected.push(Frame { length: length as u32, kind, flags, stream, code });
            }
            let (mut walker, mut seen, mut rest) = (Walker::of_client(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at((*cut).min(rest.len()));
                walker.walk(part, |frame| seen.push(frame));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, expected);
            prop_assert!(!walker.is_inside());
        }
    }
}
