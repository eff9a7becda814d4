//! A chunked body, followed byte by byte. Pure.
//!
//! Of a request hyper decodes the same bytes; this side finds where the next head begins, and is the
//! stricter of the two. Where both would go on but disagree about the end, a request would wait for
//! ever or a head would pass unseen, so whatever is not plainly right is refused here. Of a response
//! this is the decoder.

/// Where in a chunked body (RFC 9112 section 7.1) the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunks {
    /// Before the first digit of a chunk's size.
    #[default]
    Start,
    /// In the size; the value so far.
    Size(u64),
    /// In blanks behind the size.
    Blank(u64),
    /// In an extension.
    Extension(u64),
    /// Before the line feed that ends the size line.
    SizeEnd(u64),
    /// In a chunk's data: bytes left, not 0.
    Data(u64),
    /// Before the carriage return behind the data.
    DataReturn,
    /// Before the line feed behind the data.
    DataEnd,
    /// At the beginning of a trailer line, or of the empty line.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// Before the line feed of a trailer line.
    TrailerEnd,
    /// Before the body's last line feed.
    LastEnd,
    /// The body is complete.
    End,
    /// It is malformed.
    Broken,
}

/// Sizes from here on are refused: no body is that long, and the arithmetic stays far from its end.
const MAX_SIZE: u64 = 1 << 60;

impl Chunks {
    /// Takes the body's bytes from `bytes`; returns how many belong to it. Stops behind the end,
    /// and at the byte that breaks it.
    pub fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(*self, Self::End | Self::Broken) {
            if let Self::Data(left) = *self {
                let take = left.min((bytes.len() - at) as u64);
                at += take as usize;
                *self = if take == left {
                    Self::DataReturn
                } else {
                    Self::Data(left - take)
                };
                continue;
            }
            *self = self.step(bytes[at]);
            at += 1;
        }
        at
    }

    /// Takes the body's bytes up to its next data; returns how many.
    pub fn follow_to_data(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(*self, Self::Data(_) | Self::End | Self::Broken) {
            *self = self.step(bytes[at]);
            at += 1;
        }
        at
    }

    const fn step(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Start, _) => Self::digit(0, byte),
            (Self::Size(size) | Self::Blank(size), b' ' | b'\t') => Self::Blank(size),
            (Self::Size(size) | Self::Blank(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Blank(size) | Self::Extension(size), b'\r') => {
                Self::SizeEnd(size)
            }
            (Self::Size(size), _) => Self::digit(size, byte),
            (Self::Extension(size), _) if is_text(byte) => Self::Extension(size),
            (Self::SizeEnd(0) | Self::TrailerEnd, b'\n') => Self::TrailerStart,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataReturn, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Start,
            (Self::TrailerStart, b'\r') => Self::LastEnd,
            (Self::Trailer, b'\r') => Self::TrailerEnd,
            (Self::TrailerStart | Self::Trailer, _) if is_text(byte) => Self::Trailer,
            (Self::LastEnd, b'\n') => Self::End,
            _ => Self::Broken,
        }
    }

    const fn digit(size: u64, byte: u8) -> Self {
        match (byte as char).to_digit(16) {
            Some(digit) if size < MAX_SIZE >> 4 => Self::Size(size << 4 | digit as u64),
            _ => Self::Broken,
        }
    }
}

/// Neither a line's end nor another control character than the tab.
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
