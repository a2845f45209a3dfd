//! Recordings of every format, written from its published description.

#![allow(dead_code)] // each test uses a part of it

/// An event: microseconds, column, row, 1 for brighter.
pub type Row = (i64, u16, u16, u8);

/// Events that look random, in order of time, `step` µs apart.
pub fn rows(n: usize, [height, width]: [u16; 2], step: i64, seed: u32) -> Vec<Row> {
    let hash = |i: usize| {
        let mixed = (i as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(2_654_435_761);
        (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b)
    };
    let row = |i: usize| {
        let h = hash(i);
        (1000 + step * i as i64, (h >> 3) as u16 % width, (h >> 17) as u16 % height, (h >> 31) as u8)
    };
    (0..n).map(row).collect()
}

/// The `.bin` of N-MNIST.
pub fn atis(events: &[Row]) -> Vec<u8> {
    let (mut bytes, mut gone) = (Vec::new(), 0);
    for &(t, x, y, p) in events {
        while t - gone >= 1 << 23 {
            bytes.extend([7, 240, 1, 2, 3]);
            gone += 1 << 13;
        }
        let [_, t2, t1, t0] = ((t - gone) as u32).to_be_bytes();
        bytes.extend([x as u8, y as u8, p << 7 | t2, t1, t0]);
    }
    bytes
}

/// Prophesee's `.dat`.
pub fn dat([height, width]: [u16; 2], events: &[Row]) -> Vec<u8> {
    let mut bytes = format!("% Data file containing CD events.\n% Version 2\n% Height {height}\n% Width {width}\n").into_bytes();
    bytes.extend([0x0c, 8]);
    for &(t, x, y, p) in events {
        bytes.extend((t as u32).to_le_bytes());
        bytes.extend((u32::from(p) << 28 | u32::from(y) << 14 | u32::from(x)).to_le_bytes());
    }
    bytes
}

/// The lines of a `.raw`; `kind` is 2, 21 or 3.
pub fn raw(kind: u32, [height, width]: [u16; 2]) -> Vec<u8> {
    format!("% date 2026-11-30\n% format EVT{kind};height={height};width={width}\n% geometry {width}x{height}\n% end\n").into_bytes()
}

/// Prophesee's `.raw` in EVT2: a word with the upper bits of the time wherever they change, and a trigger.
pub fn evt2(sensor: [u16; 2], events: &[Row]) -> Vec<u8> {
    let (mut bytes, mut high) = (raw(2, sensor), -1);
    for &(t, x, y, p) in events {
        if t >> 6 != high {
            high = t >> 6;
            bytes.extend((0x8000_0000 | (high as u32 & 0x0fff_ffff)).to_le_bytes());
            bytes.extend(0xa123_4567u32.to_le_bytes());
        }
        bytes.extend((u32::from(p) << 28 | (t as u32 & 63) << 22 | u32::from(x) << 11 | u32::from(y)).to_le_bytes());
    }
    bytes
}

/// The same in EVT2.1, a word for each event.
pub fn evt21(sensor: [u16; 2], events: &[Row]) -> Vec<u8> {
    let (mut bytes, mut high) = (raw(21, sensor), -1);
    for &(t, x, y, p) in events {
        if t >> 6 != high {
            high = t >> 6;
            bytes.extend((0x8000_0000_0000_0000 | (high as u64 & 0x0fff_ffff) << 32).to_le_bytes());
        }
        let (first, pixel) = (x & !31, x & 31);
        let upper = u64::from(p) << 28 | (t as u64 & 63) << 22 | u64::from(first) << 11 | u64::from(y);
        bytes.extend((upper << 32 | 1 << pixel).to_le_bytes());
    }
    bytes
}

/// The same in EVT3: every third event as a vector of 12 pixels, of which one has changed.
pub fn evt3(sensor: [u16; 2], events: &[Row]) -> Vec<u8> {
    let (mut bytes, mut high, mut word) = (raw(3, sensor), -1, Vec::new());
    for (i, &(t, x, y, p)) in events.iter().enumerate() {
        if t >> 12 != high {
            high = t >> 12;
            word.extend([0x8000 | high as u16 & 0xfff, 0xa001, 0xe005]);
        }
        word.extend([0x6000 | t as u16 & 0xfff, y]);
        if i % 3 == 0 {
            let first = x.saturating_sub(i as u16 % 12);
            word.extend([0x3000 | u16::from(p) << 11 | first, 0x4000 | 1 << (x - first)]);
        } else {
            word.push(0x2000 | u16::from(p) << 11 | x);
        }
    }
    bytes.extend(word.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// A packet of AEDAT 3.1: `kind` of events, overflows of the clock, events of 8 bytes.
pub fn packet(kind: u16, overflows: u32, events: &[[u8; 8]]) -> Vec<u8> {
    let n = events.len() as u32;
    let numbers = [8, 4, overflows, n, n, n].iter().flat_map(|number| number.to_le_bytes()).collect();
    [[kind, 1].iter().flat_map(|number| number.to_le_bytes()).collect(), numbers, events.concat()].concat()
}

/// AEDAT 3.1, the format of DVS128 Gesture: packets of up to 50 events, and one of something else.
pub fn aedat3(source: &str, events: &[Row]) -> Vec<u8> {
    let header = format!("#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: {source}\r\n#Start-Time: 2026-11-30\r\n#!END-HEADER\r\n");
    let mut bytes = header.into_bytes();
    bytes.extend(packet(0, 0, &[[9; 8]]));
    for part in events.chunk_by(|a, b| a.0 >> 31 == b.0 >> 31).flat_map(|part| part.chunks(50)) {
        let event = |&(t, x, y, p): &Row| {
            let data = u32::from(x) << 17 | u32::from(y) << 2 | u32::from(p) << 1 | 1;
            let [a, b, c, d] = data.to_le_bytes();
            let [e, f, g, h] = (t as u32 & 0x7fff_ffff).to_le_bytes();
            [a, b, c, d, e, f, g, h]
        };
        bytes.extend(packet(1, (part[0].0 >> 31) as u32, &part.iter().map(event).collect::<Vec<_>>()));
    }
    bytes
}

/// NumPy's `.npy`.
pub fn npy(kind: &str, sizes: &[usize], values: &[u8]) -> Vec<u8> {
    let sizes: String = sizes.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    while (10 + header.len()) % 64 != 63 {
        header.push(' ');
    }
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
}

/// An `.npz` of arrays by their names.
pub fn npz(arrays: &[(&str, Vec<u8>)], is_packed: bool) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let method = if is_packed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        writer.start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(&mut writer, bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Events as SpikingJelly writes them: 64-bit times, places and polarities of other widths.
pub fn npz_of(events: &[Row], is_packed: bool) -> Vec<u8> {
    let of = |kind: &str, bytes: fn(&Row) -> Vec<u8>| npy(kind, &[events.len()], &events.iter().flat_map(bytes).collect::<Vec<u8>>());
    let arrays = [
        ("t", of("<i8", |row| row.0.to_le_bytes().to_vec())),
        ("x", of("<i2", |row| row.1.to_le_bytes().to_vec())),
        ("y", of("<u4", |row| u32::from(row.2).to_le_bytes().to_vec())),
        ("p", of("|b1", |row| vec![row.3])),
    ];
    npz(&arrays, is_packed)
}

/// Events of a class: most of them lie around a place of its own.
pub fn of_class(class: usize, seed: u32, n: usize, sensor @ [height, width]: [u16; 2]) -> Vec<Row> {
    let places = [[height / 4, width / 4], [3 * height / 4, width / 4], [height / 2, 3 * width / 4]];
    let [y, x] = places[class % 3];
    let near = |row: Row| (row.0, x - width / 10 + row.1 % (width / 5), y - height / 10 + row.2 % (height / 5), row.3);
    let all = rows(n, sensor, 20, seed + 1000 * class as u32);
    all.into_iter().enumerate().map(|(i, row)| if i % 4 == 0 { row } else { near(row) }).collect()
}
