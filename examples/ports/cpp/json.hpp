// As much JSON as the suite speaks: one request a line, floats as hexadecimal text (docs/conformance.md).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
    std::string text;        // of a string; of a number, as it is written
    std::vector<Json> list;  // of an array; of an object, its names and values by turns

    const Json& operator[](const std::string& name) const {
        for (std::size_t i = 0; i + 1 < list.size(); i += 2)
            if (list[i].text == name) return list[i + 1];
        throw std::invalid_argument("the request has no " + name);
    }
    int integer() const { return std::stoi(text); }
    std::vector<std::string> texts() const {
        std::vector<std::string> found;
        for (const Json& item : list) found.push_back(item.text);
        return found;
    }
    // strtod reads 0x1.8p+1, inf and nan. It expects the decimal point of the locale, so this program sets none.
    double number() const { return std::strtod(text.c_str(), nullptr); }
    std::vector<float> numbers() const {  // they are float32 numbers, so that nothing is lost
        std::vector<float> found;
        for (const Json& item : list) found.push_back(item.number());
        return found;
    }
};

// One character in UTF-8.
inline std::string utf8(unsigned code) {
    auto six_bits = [code](int shift) { return char(0x80 | (code >> shift & 0x3f)); };
    if (code < 0x80) return {char(code)};
    if (code < 0x800) return {char(0xc0 | code >> 6), six_bits(0)};
    if (code < 0x10000) return {char(0xe0 | code >> 12), six_bits(6), six_bits(0)};
    return {char(0xf0 | code >> 18), six_bits(12), six_bits(6), six_bits(0)};
}

// What stands behind a backslash at p. Python writes every character beyond ASCII in this way.
inline std::string read_escape(const char*& p) {
    auto code_unit = [&p] {
        unsigned unit = std::stoul(std::string(p, 4), nullptr, 16);
        p += 4;
        return unit;
    };
    const char kind = *p++;
    if (kind == 'u') {
        unsigned code = code_unit();
        if (code >> 10 == 0xd800 >> 10 && p[0] == '\\' && p[1] == 'u') {  // the first of two that make one character
            p += 2;
            code = 0x10000 + ((code & 0x3ff) << 10 | (code_unit() & 0x3ff));
        }
        return utf8(code);
    }
    const char *kinds = "bfnrt", *known = std::strchr(kinds, kind);
    return std::string(1, known ? "\b\f\n\r\t"[known - kinds] : kind);
}

inline std::string read_text(const char*& p) {
    std::string text;
    for (p++; *p != '"';) {
        if (*p == '\0') throw std::invalid_argument("a text has no end");
        if (*p == '\\') text += read_escape(++p);
        else text += *p++;
    }
    p++;
    return text;
}

// What comes next, behind spaces, and commas and colons like them.
inline char next(const char*& p) {
    p += std::strspn(p, " ,:");
    return *p;
}

// The value that comes next; p is moved behind it.
inline Json read_json(const char*& p) {
    Json value;
    if (next(p) == '"') {
        value.text = read_text(p);
    } else if (*p == '[' || *p == '{') {
        for (p++; next(p) != ']' && *p != '}';) value.list.push_back(read_json(p));
        p++;
    } else {
        const std::size_t length = std::strcspn(p, " ,]}");
        if (length == 0) throw std::invalid_argument("a value is missing");
        value.text.assign(p, length);
        p += length;
    }
    return value;
}

// --- answers

inline std::string json(bool value) { return value ? "true" : "false"; }
inline std::string json(int value) { return std::to_string(value); }
inline std::string json(const std::string& text) { return '"' + text + '"'; }

inline std::string json(double value) {
    char text[40];
    std::snprintf(text, sizeof text, "\"%a\"", value);  // %f, and << to a stream, would drop digits (OKR-SCORE-001)
    return text;
}

template <class T>
std::string json(const std::vector<T>& list) {
    std::string text;
    for (const T& item : list) text += (text.empty() ? "" : ", ") + json(item);
    return "[" + text + "]";
}
