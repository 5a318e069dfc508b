//! A reader of requests as strict as docs/SECURITY.md says our own path is. It shares no code with what it checks, and
//! knows what the bytes of a connection are, whatever hyper would make of them.

use http::Version;

use crate::served::{Read, Seen};

/// Checks that the requests that were served are those that these bytes begin with.
///
/// *Errors*: which one should not have been served, and why.
pub fn check_served(bytes: &[u8], seen: &[Seen]) -> Result<(), String> {
    let mut reader = Reader { rest: bytes };
    for (index, one) in seen.iter().enumerate() {
        let read = reader.request(one).map_err(|problem| format!("request {index}: {problem}"))?;
        match (&one.body, read) {
            (Read::Whole { data, .. }, Body::Whole(read)) if *data == read => {}
            (Read::Whole { .. }, read) => return Err(format!("the body of request {index} is {read:?}")),
            (Read::Nothing, Body::Whole(_)) => {}
            // Nobody can tell what stands behind it.
            (_, Body::Broken) if index + 1 == seen.len() => {}
            (Read::Broken { .. }, Body::Whole(_)) => {
                return Err(format!("the body of request {index} is good"));
            }
            (_, Body::Broken) => return Err(format!("request {} was read behind a broken body", index + 1)),
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Body {
    Whole(Vec<u8>),
    Broken,
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Reads a request, which must be the one that was seen, and its body.
    fn request(&mut self, seen: &Seen) -> Result<Body, String> {
        self.rest = self.rest.strip_prefix(b"\r\n").unwrap_or(self.rest);
        let line = self.line()?;
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let [method, target, version] = words[..] else {
            return Err("a request line has three words".into());
        };
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ => return Err("another version".into()),
        };
        let known = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let same_target = !target.starts_with(b"/") || target == seen.target.as_bytes();
        if method != seen.method.as_bytes() || !same_target || known != seen.version || target.contains(&b'#')
        {
            return Err(format!("it is {}", line.escape_ascii()));
        }
        let (mut hosts, mut length, mut chunked, mut fields) = (0, None, false, 0);
        while let Some((name, value)) = self.field()? {
            fields += 1;
            match &*name {
                "host" => hosts += 1,
                "content-length" => {
                    let text = str::from_utf8(value).map_err(|_| "a length")?;
                    if length.is_some() || text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit())
                    {
                        return Err("a length must be one number, once".into());
                    }
                    length = Some(text.parse::<u64>().map_err(|error| error.to_string())?);
                }
                "transfer-encoding" if chunked || !value.eq_ignore_ascii_case(b"chunked") => {
                    return Err("a coding must be one `chunked`".into());
                }
                "transfer-encoding" => chunked = true,
                _ => {}
            }
        }
        let framings = usize::from(chunked) + usize::from(length.is_some());
        if seen.fields.len() + framings != fields {
            return Err(format!("it has {fields} fields"));
        }
        if hosts > 1 || (hosts == 0 && minor == 1) || framings > 1 || (chunked && minor == 0) {
            return Err("a host and a framing must be clear".into());
        }
        if chunked {
            return Ok(self.chunks().map_or(Body::Broken, Body::Whole));
        }
        let length = usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX);
        let Some((data, rest)) = self.rest.split_at_checked(length) else { return Ok(Body::Broken) };
        self.rest = rest;
        Ok(Body::Whole(data.to_vec()))
    }

    fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let (size, extension) = line.split_at(digits);
            let extended = extension.trim_ascii_start().starts_with(b";");
            if !(extension.is_empty() || extended) || extension.iter().any(is_control) {
                return Err("a chunk's size line".into());
            }
            let size = str::from_utf8(size).unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|error| error.to_string())?;
            if size == 0 {
                while self.field()?.is_some() {}
                return Ok(body);
            }
            let (data, rest) = self.rest.split_at_checked(size).ok_or("the end")?;
            body.extend_from_slice(data);
            self.rest = rest.strip_prefix(b"\r\n").ok_or("a chunk is longer than its size")?;
        }
    }

    /// The next field, its name in lower case; `None` at the empty line.
    fn field(&mut self) -> Result<Option<(String, &'b [u8])>, String> {
        let line = self.line()?;
        if line.is_empty() {
            return Ok(None);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(token) || value.iter().any(is_control) {
            return Err(format!("a field is {}", line.escape_ascii()));
        }
        Ok(Some((String::from_utf8_lossy(name).to_ascii_lowercase(), value)))
    }

    /// The next line, which ends in CRLF and has none of the two in it.
    fn line(&mut self) -> Result<&'b [u8], String> {
        let end = self.rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or("it does not end")?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.strip_prefix(b"\r\n").ok_or("a line does not end in CRLF")?;
        Ok(line)
    }
}

fn is_control(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}
