//! Messages of protobuf, taken apart and put together by hand: what is tested against them uses a library.

/// A field of bytes, a string or a message.
pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    field.push(u8::try_from(length).expect("seven bits"));
    field.extend(content);
    field
}

/// A value of a message.
#[derive(Debug)]
pub(crate) enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message, with their numbers.
pub(crate) fn fields(mut message: &[u8]) -> Vec<(u64, Value)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)),
            2 => {
                let length = usize::try_from(varint(&mut message)).expect("it is short");
                let (content, rest) = message.split_at(length);
                message = rest;
                Value::Bytes(content.to_vec())
            }
            other => panic!("a field of wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn varint(from: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = from.split_first().expect("a whole number");
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

pub(crate) fn bytes(fields: &[(u64, Value)], number: u64) -> &[u8] {
    fields
        .iter()
        .find_map(
            |(of, value)| {
                if let (true, Value::Bytes(bytes)) = (*of == number, value) { Some(&bytes[..]) } else { None }
            },
        )
        .unwrap_or_default()
}

pub(crate) fn text(fields: &[(u64, Value)], number: u64) -> String {
    String::from_utf8_lossy(bytes(fields, number)).into_owned()
}

pub(crate) fn number(fields: &[(u64, Value)], number: u64) -> u64 {
    fields
        .iter()
        .find_map(
            |(of, value)| if let (true, Value::Number(value)) = (*of == number, value) { Some(*value) } else { None },
        )
        .unwrap_or_default()
}
