//! Writing flat tables as Apache Parquet: one row group, plain encoding, no compression, every column optional.
//!
//! The format is small where it is only written: bytes of values, levels that say which are null, and a footer in Thrift's
//! compact protocol. References: `parquet.thrift` and `Encodings.md` of apache/parquet-format, "Thrift compact protocol".

/// A column.
pub(super) struct Column {
    name: String,
    data: Data,
}

/// Its cells.
pub(super) enum Data {
    Bool(Vec<Option<bool>>),
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
}

impl Column {
    pub(super) fn new(name: &str, data: Data) -> Self {
        Self {
            name: name.to_owned(),
            data,
        }
    }
}

const MAGIC: &[u8; 4] = b"PAR1";

/// Numbers of `parquet.thrift`.
mod id {
    pub(super) const BOOLEAN: i64 = 0;
    pub(super) const INT64: i64 = 2;
    pub(super) const DOUBLE: i64 = 5;
    pub(super) const BYTE_ARRAY: i64 = 6;
    pub(super) const OPTIONAL: i64 = 1;
    pub(super) const UTF8: i64 = 0;
    pub(super) const PLAIN: i64 = 0;
    pub(super) const RLE: i64 = 3;
    pub(super) const UNCOMPRESSED: i64 = 0;
    pub(super) const DATA_PAGE: i64 = 0;
}

/// Where the only page of a column is.
struct Chunk {
    offset: usize,
    size: usize,
}

/// The file. All columns have to be of one length.
pub(super) fn write(columns: &[Column]) -> Vec<u8> {
    let rows = columns.first().map_or(0, |column| column.data.len());
    let mut out = MAGIC.to_vec();
    let chunks: Vec<Chunk> = columns
        .iter()
        .map(|column| {
            debug_assert_eq!(column.data.len(), rows, "{}", column.name);
            let offset = out.len();
            page(&column.data, &mut out);
            Chunk {
                offset,
                size: out.len() - offset,
            }
        })
        .collect();
    let footer = footer(columns, &chunks, rows);
    out.extend_from_slice(&footer);
    out.extend_from_slice(&length(footer.len()));
    out.extend_from_slice(MAGIC);
    out
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes)
        .expect("tables of trials are smaller than 4 GiB")
        .to_le_bytes()
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Bool(cells) => cells.len(),
            Self::Int(cells) => cells.len(),
            Self::Float(cells) => cells.len(),
            Self::Text(cells) => cells.len(),
        }
    }

    fn kind(&self) -> i64 {
        match self {
            Self::Bool(_) => id::BOOLEAN,
            Self::Int(_) => id::INT64,
            Self::Float(_) => id::DOUBLE,
            Self::Text(_) => id::BYTE_ARRAY,
        }
    }

    fn present(&self) -> Vec<bool> {
        match self {
            Self::Bool(cells) => cells.iter().map(Option::is_some).collect(),
            Self::Int(cells) => cells.iter().map(Option::is_some).collect(),
            Self::Float(cells) => cells.iter().map(Option::is_some).collect(),
            Self::Text(cells) => cells.iter().map(Option::is_some).collect(),
        }
    }

    /// Values that are there, in plain encoding.
    fn plain(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(cells) => {
                let bits: Vec<bool> = cells.iter().flatten().copied().collect();
                out.extend(bits.chunks(8).map(packed));
            }
            Self::Int(cells) => {
                let cells = cells.iter().flatten();
                cells.for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            }
            Self::Float(cells) => {
                let cells = cells.iter().flatten();
                cells.for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
            }
            Self::Text(cells) => {
                for text in cells.iter().flatten() {
                    out.extend_from_slice(&length(text.len()));
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
    }
}

/// Eight bits, the first one least.
fn packed(bits: &[bool]) -> u8 {
    let bits = bits.iter().enumerate();
    bits.fold(0, |byte, (at, bit)| byte | (u8::from(*bit) << at))
}

/// A page of data: its header, which cells are there, the values that are.
fn page(data: &Data, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    levels(&data.present(), &mut body);
    data.plain(&mut body);
    let size = body.len() as i64;
    let mut header = Thrift::default();
    header.i32(1, id::DATA_PAGE);
    header.i32(2, size);
    header.i32(3, size);
    header.begin(5);
    header.i32(1, data.len() as i64);
    header.i32(2, id::PLAIN);
    header.i32(3, id::RLE);
    header.i32(4, id::RLE);
    header.end();
    header.stop();
    out.extend_from_slice(&header.bytes);
    out.extend_from_slice(&body);
}

/// Definition levels of one bit, in the hybrid of run lengths and packed bits, after their length.
fn levels(present: &[bool], out: &mut Vec<u8>) {
    let mut runs = Vec::new();
    for run in present.chunk_by(|a, b| a == b) {
        varint(&mut runs, (run.len() as u64) << 1);
        runs.push(u8::from(run[0]));
    }
    out.extend_from_slice(&length(runs.len()));
    out.extend_from_slice(&runs);
}

fn footer(columns: &[Column], chunks: &[Chunk], rows: usize) -> Vec<u8> {
    let mut it = Thrift::default();
    it.i32(1, 1);
    it.list(2, Thrift::STRUCT, columns.len() + 1);
    it.element();
    it.text(4, "schema");
    it.i32(5, columns.len() as i64);
    it.end();
    for column in columns {
        it.element();
        it.i32(1, column.data.kind());
        it.i32(3, id::OPTIONAL);
        it.text(4, &column.name);
        if let Data::Text(_) = column.data {
            it.i32(6, id::UTF8);
        }
        it.end();
    }
    it.i64(3, rows as i64);
    it.list(4, Thrift::STRUCT, 1);
    it.element();
    it.list(1, Thrift::STRUCT, columns.len());
    for (column, chunk) in columns.iter().zip(chunks) {
        it.element();
        it.i64(2, chunk.offset as i64);
        it.begin(3);
        it.i32(1, column.data.kind());
        it.list(2, Thrift::I32, 2);
        it.zigzag(id::PLAIN);
        it.zigzag(id::RLE);
        it.list(3, Thrift::BINARY, 1);
        it.binary(&column.name);
        it.i32(4, id::UNCOMPRESSED);
        it.i64(5, rows as i64);
        it.i64(6, chunk.size as i64);
        it.i64(7, chunk.size as i64);
        it.i64(9, chunk.offset as i64);
        it.end();
        it.end();
    }
    it.i64(2, chunks.iter().map(|chunk| chunk.size as i64).sum());
    it.i64(3, rows as i64);
    it.end();
    it.text(6, concat!("dagrun version ", env!("CARGO_PKG_VERSION")));
    it.stop();
    it.bytes
}

/// Thrift's compact protocol, as far as it is written here.
#[derive(Default)]
struct Thrift {
    bytes: Vec<u8>,
    /// The last field's id, of the structs that are open around too.
    last: i16,
    around: Vec<i16>,
}

impl Thrift {
    const I32: u8 = 5;
    const I64: u8 = 6;
    const BINARY: u8 = 8;
    const LIST: u8 = 9;
    const STRUCT: u8 = 12;

    /// Ids of fields rise by less than 16 in all structs here, so that the short form holds.
    fn field(&mut self, id: i16, kind: u8) {
        let step = u8::try_from(id - self.last).expect("fields are written in their order");
        self.bytes.push((step << 4) | kind);
        self.last = id;
    }

    fn zigzag(&mut self, n: i64) {
        varint(&mut self.bytes, ((n << 1) ^ (n >> 63)).cast_unsigned());
    }

    fn i32(&mut self, id: i16, n: i64) {
        self.field(id, Self::I32);
        self.zigzag(n);
    }

    fn i64(&mut self, id: i16, n: i64) {
        self.field(id, Self::I64);
        self.zigzag(n);
    }

    fn binary(&mut self, text: &str) {
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, id: i16, text: &str) {
        self.field(id, Self::BINARY);
        self.binary(text);
    }

    fn list(&mut self, id: i16, kind: u8, items: usize) {
        self.field(id, Self::LIST);
        match items {
            0..15 => self.bytes.push(((items as u8) << 4) | kind),
            _ => {
                self.bytes.push(0xf0 | kind);
                varint(&mut self.bytes, items as u64);
            }
        }
    }

    /// A struct as a field.
    fn begin(&mut self, id: i16) {
        self.field(id, Self::STRUCT);
        self.element();
    }

    /// A struct as an element of a list.
    fn element(&mut self) {
        self.around.push(std::mem::take(&mut self.last));
    }

    fn end(&mut self) {
        self.stop();
        self.last = self.around.pop().expect("a struct is open");
    }

    fn stop(&mut self) {
        self.bytes.push(0);
    }
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What pyarrow and duckdb read back as `n: [1, null, -2]`, `t: ["a", "b", null]`.
    #[test]
    fn a_small_file_has_these_bytes() {
        let file = write(&[
            Column::new("n", Data::Int(vec![Some(1), None, Some(-2)])),
            Column::new(
                "t",
                Data::Text(vec![Some("a".into()), Some("b".into()), None]),
            ),
        ]);
        assert_eq!(&file[..4], MAGIC);
        assert_eq!(&file[file.len() - 4..], MAGIC);
        let page = [
            // Header: a data page of 26 bytes, 3 values, plain, levels in runs.
            0x15, 0, 0x15, 52, 0x15, 52, 0x2c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0,
            // Runs of there, not there, there.
            6, 0, 0, 0, 2, 1, 2, 0, 2, 1, //
            1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(&file[4..4 + page.len()], page);
    }

    #[test]
    fn bits_and_lengths() {
        assert_eq!(packed(&[true, false, true]), 5);
        let mut bytes = Vec::new();
        varint(&mut bytes, 300);
        assert_eq!(bytes, [0xac, 2]);
        let mut it = Thrift::default();
        it.zigzag(-1);
        it.list(1, Thrift::I32, 20);
        assert_eq!(it.bytes, [1, 0x19, 0xf5, 20]);
    }
}
