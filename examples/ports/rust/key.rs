//! Chapter KEY: what a secret expands to, and SHAKE-256 (FIPS 202), which expands it.

use crate::json::Checked;

type Lanes = [u64; 25]; // lane (x, y) is number x + 5 y

/// Theta: every lane takes up the parities of two columns beside its own.
fn mix_columns(a: &mut Lanes) {
    let parity: [u64; 5] = std::array::from_fn(|x| a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20]);
    for (i, lane) in a.iter_mut().enumerate() {
        *lane ^= parity[(i + 4) % 5] ^ parity[(i + 1) % 5].rotate_left(1); // << would lose the bit on top (OKR-KEY-002)
    }
}

/// Rho and pi: each lane is rotated and moves to the place of the next.
fn move_lanes(a: &mut Lanes) {
    let (mut x, mut y, mut moving) = (1, 0, a[1]);
    for step in 0..24 {
        (x, y) = (y, (2 * x + 3 * y) % 5);
        let rotated = moving.rotate_left((step + 1) * (step + 2) / 2 % 64);
        moving = std::mem::replace(&mut a[x + 5 * y], rotated);
    }
}

/// Chi: the only step that is not linear.
fn mix_rows(a: &mut Lanes) {
    for row in a.chunks_exact_mut(5) {
        let old: [u64; 5] = std::array::from_fn(|x| row[x]);
        for x in 0..5 {
            row[x] ^= !old[(x + 1) % 5] & old[(x + 2) % 5];
        }
    }
}

/// Iota: bits of a shift register break the symmetry of the rounds.
fn add_constant(lane: &mut u64, bits: &mut u8) {
    for j in 0..7 {
        if *bits & 1 == 1 {
            *lane ^= 1 << ((1 << j) - 1);
        }
        *bits = *bits << 1 ^ (*bits >> 7) * 0x71;
    }
}

fn permute(a: &mut Lanes) {
    let mut bits = 1;
    for _ in 0..24 {
        mix_columns(a);
        move_lanes(a);
        mix_rows(a);
        add_constant(&mut a[0], &mut bits);
    }
}

fn shake256(mut message: Vec<u8>, length: usize) -> Vec<u8> {
    const RATE: usize = 136; // bytes that one permutation takes in or gives
    message.push(0x1f);
    message.resize(message.len().next_multiple_of(RATE), 0);
    *message.last_mut().unwrap() |= 0x80;
    let mut state = [0; 25];
    for block in message.chunks_exact(RATE) {
        for (lane, bytes) in state.iter_mut().zip(block.chunks_exact(8)) {
            *lane ^= u64::from_le_bytes(bytes.try_into().unwrap());
        }
        permute(&mut state);
    }
    let mut out = Vec::new();
    while out.len() < length {
        out.extend(state.iter().flat_map(|lane| lane.to_le_bytes()).take(RATE));
        permute(&mut state);
    }
    out
}

pub fn from_hex(digits: &str) -> Checked<Vec<u8>> {
    (0..digits.len()).step_by(2).map(|i| Ok(u8::from_str_radix(&digits[i..i + 2], 16)?)).collect()
}

/// Rows of signs as text, for a site given by its stack, its layer, d and E.
pub fn projection(secret: &[u8], stack: &str, [layer, d, experts]: [u32; 3]) -> Checked<Vec<String>> {
    // try_from refuses what two bytes cannot hold, where "as u16" would cut it (OKR-KEY-001).
    let length = u16::try_from(secret.len())?;
    if length < 16 {
        return Err("a secret has 16 to 65535 bytes".into());
    }
    let mut header = b"OKR-v1\0".to_vec();
    header.extend(length.to_be_bytes()); // to_ne_bytes would be little-endian on most machines (OKR-KEY-002)
    header.extend(secret);
    header.extend(stack.bytes()); // UTF-8; a char as u8 would be cut
    header.push(0);
    for number in [layer, d, experts] {
        header.extend(number.to_be_bytes());
    }
    let (d, experts) = (d as usize, experts as usize); // a product that leaves its type wraps around in silence
    let stream = shake256(header, (d * experts).div_ceil(8));
    let sign = |i: usize| if stream[i / 8] >> (7 - i % 8) & 1 == 1 { '+' } else { '-' };
    Ok((0..d).map(|row| (0..experts).map(|expert| sign(row * experts + expert)).collect()).collect())
}
