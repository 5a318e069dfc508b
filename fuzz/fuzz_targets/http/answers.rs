//! A reader of answers that takes nothing but what RFC 9112 lets a server send. It shares no code with what it checks.

use bytes::Bytes;
use http::Version;

use crate::served::{Field, Seen};

/// An answer as its client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order they came in.
    pub fields: Vec<Field>,
    pub body: Bytes,
    pub trailers: Vec<Field>,
    /// The connection ended before the answer did.
    pub cut: bool,
}

impl Answer {
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| &value[..]).collect()
    }

    /// Whether it says that the connection ends here.
    pub fn closes(&self) -> bool {
        self.values("connection").contains(&&b"close"[..])
    }
}

/// Reads all final answers that a client got to its requests. `seen` are those that were served; one more answer may
/// follow, to what was refused.
///
/// Returns the answers up to the first that is wrong, and what is wrong with that one.
pub fn read_all(bytes: &[u8], seen: &[Seen]) -> (Vec<Answer>, Result<(), String>) {
    let mut reader = Reader { bytes, at: 0 };
    let mut answers = Vec::new();
    while reader.at < bytes.len() {
        match reader.answer(seen.get(answers.len())) {
            Ok(answer) => answers.extend(answer),
            Err(problem) => return (answers, Err(format!("{problem} at byte {} of the answers", reader.at))),
        }
    }
    (answers, Ok(()))
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    /// `None`: an interim answer.
    fn answer(&mut self, request: Option<&Seen>) -> Result<Option<Answer>, String> {
        let status = self.status_line()?;
        let fields = self.fields()?;
        let mut answer = Answer { status, fields, body: Bytes::new(), trailers: Vec::new(), cut: false };
        if status == 100 {
            return if answer.fields.is_empty() { Ok(None) } else { Err("100 with fields".into()) };
        }
        if status < 200 {
            return Err(format!("an interim {status}"));
        }
        if answer.values("date").len() != 1 {
            return Err("not exactly one Date".into());
        }
        self.body(&mut answer, request)?;
        Ok(Some(answer))
    }

    fn body(&mut self, answer: &mut Answer, request: Option<&Seen>) -> Result<(), String> {
        let codings = answer.values("transfer-encoding");
        let chunked = match &codings[..] {
            [] => false,
            [b"chunked"] => true,
            other => return Err(format!("the coding is {other:?}")),
        };
        let length = match &answer.values("content-length")[..] {
            [] => None,
            [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                Some(str::from_utf8(digits).unwrap_or_default().parse::<usize>().map_err(|e| e.to_string())?)
            }
            other => return Err(format!("the length is {other:?}")),
        };
        if chunked && (length.is_some() || request.is_some_and(|r| r.version == Version::HTTP_10)) {
            return Err("chunked where it must not be".into());
        }
        if answer.status == 204 && (chunked || length.is_some()) {
            return Err("204 with a framing".into());
        }
        let bodiless = matches!(answer.status, 204 | 304) || request.is_some_and(|r| r.method == "HEAD");
        let left = self.bytes.len() - self.at;
        match length {
            _ if bodiless => {}
            // Refused before its method was sure: then it may have been a HEAD.
            Some(_) if request.is_none() && left == 0 => {}
            Some(length) => {
                answer.cut = length > left;
                answer.body = Bytes::copy_from_slice(self.take(length.min(left)));
            }
            None if chunked => answer.body = self.chunks(answer)?.into(),
            None if !answer.closes() && request.is_some_and(|r| r.version != Version::HTTP_10) => {
                return Err("no framing".into());
            }
            None => answer.body = Bytes::copy_from_slice(self.take(left)),
        }
        Ok(())
    }

    fn chunks(&mut self, answer: &mut Answer) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            if self.at == self.bytes.len() {
                answer.cut = true;
                return Ok(body);
            }
            let line = self.line()?;
            let digits = str::from_utf8(line).map_err(|_| "a chunk's size")?;
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("a chunk's size is {digits:?}"));
            }
            let size = usize::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
            if size == 0 {
                answer.trailers = self.fields()?;
                return Ok(body);
            }
            let left = self.bytes.len() - self.at;
            body.extend_from_slice(self.take(size.min(left)));
            if size > left {
                answer.cut = true;
                return Ok(body);
            }
            if !self.line()?.is_empty() {
                return Err("a chunk is longer than its size".into());
            }
        }
    }

    fn status_line(&mut self) -> Result<u16, String> {
        let line = self.line()?;
        let bad = || format!("the status line is {:?}", String::from_utf8_lossy(line));
        let rest = line
            .strip_prefix(b"HTTP/1.1 ")
            // hyper answers HTTP/1.0 in its own words; what the rest means is the same.
            .or_else(|| line.strip_prefix(b"HTTP/1.0 "))
            .ok_or_else(bad)?;
        let (digits, reason) = rest.split_at_checked(3).ok_or_else(bad)?;
        let text =
            reason.strip_prefix(b" ").is_some_and(|reason| reason.iter().all(|b| matches!(b, b' '..=b'~')));
        if !text || !matches!(digits[0], b'1'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
            return Err(bad());
        }
        Ok(digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
    }

    /// The fields up to the empty line.
    fn fields(&mut self) -> Result<Vec<Field>, String> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let bad = || format!("a field is {:?}", String::from_utf8_lossy(line));
            let colon = line.iter().position(|byte| *byte == b':').ok_or_else(bad)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            let visible = |byte: &u8| *byte >= b' ' && *byte != 0x7f || *byte == b'\t';
            if name.is_empty() || !name.iter().all(token) || !value.iter().all(visible) {
                return Err(bad());
            }
            fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), Bytes::copy_from_slice(value)));
        }
    }

    /// The next line, which ends in CRLF and has none of the two in it.
    fn line(&mut self) -> Result<&'b [u8], String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or("a line does not end")?;
        if !rest[end..].starts_with(b"\r\n") {
            return Err("a line does not end in CRLF".into());
        }
        self.at += end + 2;
        Ok(&rest[..end])
    }

    fn take(&mut self, count: usize) -> &'b [u8] {
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        taken
    }
}
