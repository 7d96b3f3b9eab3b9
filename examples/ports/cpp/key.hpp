// Chapter KEY: what a secret expands to, and SHAKE-256 (FIPS 202), which expands it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Bytes are unsigned. A plain char may be signed, and a byte from 0x80 on would then spread its sign bit over the lane
// (OKR-KEY-002).
using Bytes = std::vector<std::uint8_t>;
using Lanes = std::uint64_t[25];  // lane (x, y) is number x + 5 y

// Theta: every lane takes up the parities of two neighbouring columns.
inline void mix_columns(Lanes& a) {
    std::uint64_t parity[5];
    for (int x = 0; x < 5; x++) parity[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
    for (int i = 0; i < 25; i++) a[i] ^= parity[(i + 4) % 5] ^ std::rotl(parity[(i + 1) % 5], 1);
}

// Rho and pi: each lane is rotated and moves to the place of the next.
inline void move_lanes(Lanes& a) {
    std::uint64_t moving = a[1];
    for (int step = 0, x = 1, y = 0; step < 24; step++) {
        int below = (2 * x + 3 * y) % 5;
        x = y;
        y = below;
        moving = std::exchange(a[x + 5 * y], std::rotl(moving, (step + 1) * (step + 2) / 2 % 64));
    }
}

// Chi: the only step that is not linear.
inline void mix_rows(Lanes& a) {
    for (std::uint64_t* row = a; row < a + 25; row += 5) {
        const std::uint64_t first = row[0], second = row[1];
        for (int x = 0; x < 3; x++) row[x] ^= ~row[x + 1] & row[x + 2];
        row[3] ^= ~row[4] & first;
        row[4] ^= ~first & second;
    }
}

// Iota: bits of a shift register break the symmetry of the rounds.
inline void add_constant(std::uint64_t& lane, unsigned& bits) {
    for (int j = 0; j < 7; j++) {
        // A plain 1 is an int, and a shift by 63 leaves it (OKR-KEY-002).
        if (bits & 1) lane ^= std::uint64_t{1} << ((1 << j) - 1);
        bits = bits & 0x80 ? (bits << 1 ^ 0x171) : bits << 1;
    }
}

inline void permute(Lanes& a) {
    unsigned bits = 1;
    for (int round = 0; round < 24; round++) {
        mix_columns(a);
        move_lanes(a);
        mix_rows(a);
        add_constant(a[0], bits);
    }
}

inline Bytes shake256(Bytes message, std::size_t length) {
    const std::size_t rate = 136;  // bytes that one permutation takes in or gives
    message.push_back(0x1f);
    message.resize((message.size() + rate - 1) / rate * rate);
    message.back() |= 0x80;
    Lanes state = {};
    for (std::size_t i = 0; i < message.size(); i++) {
        // Shifts put the first byte lowest on every machine; a copy of memory would on little-endian ones only.
        state[i % rate / 8] ^= std::uint64_t{message[i]} << i % 8 * 8;
        if (i % rate == rate - 1) permute(state);
    }
    Bytes out;
    for (std::size_t i = 0; i < length; i++) {
        if (i > 0 && i % rate == 0) permute(state);
        out.push_back(state[i % rate / 8] >> i % 8 * 8);
    }
    return out;
}

inline Bytes from_hex(const std::string& digits) {
    Bytes bytes;
    for (std::size_t i = 0; i < digits.size(); i += 2) bytes.push_back(std::stoi(digits.substr(i, 2), nullptr, 16));
    return bytes;
}

// Rows of signs as text, for a site given by its stack, its layer, d and E.
inline std::vector<std::string> projection(const Bytes& secret, const std::string& stack, unsigned layer, unsigned d,
                                           unsigned experts) {
    if (secret.size() < 16 || secret.size() > 65535) throw std::invalid_argument("a secret has 16 to 65535 bytes");
    Bytes header = {'O', 'K', 'R', '-', 'v', '1', 0};
    // Shifts give big-endian bytes on every machine. An int in memory is little-endian on most (OKR-KEY-002).
    auto append = [&header](std::size_t number, int bytes) {
        while (bytes-- > 0) header.push_back(number >> 8 * bytes);
    };
    append(secret.size(), 2);
    header.insert(header.end(), secret.begin(), secret.end());
    header.insert(header.end(), stack.begin(), stack.end());
    header.push_back(0);
    for (unsigned number : {layer, d, experts}) append(number, 4);

    const std::size_t entries = std::size_t{d} * experts;
    const Bytes stream = shake256(header, (entries + 7) / 8);
    std::vector<std::string> signs(d, std::string(experts, '-'));
    for (std::size_t i = 0; i < entries; i++)
        if (stream[i / 8] >> (7 - i % 8) & 1) signs[i / experts][i % experts] = '+';
    return signs;
}
