// A router keyed by OKR in standard C++, written from spec/text, chapters 0 to 7. It answers JSON lines.
//
//     g++ -O2 -std=c++20 router.cpp -o router
//     okr conform "cmd:./router"
//
// -ffast-math breaks it: the compiler then takes no number for infinite or NaN, and drops the tests (OKR-FAIL-004).

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>
#include <ranges>

#include "json.hpp"
#include "key.hpp"

using Row = std::vector<float>;

// Chapter SCORE, for one token.
std::vector<double> key_scores(const Row& hidden, const std::vector<std::string>& signs) {
    std::vector<double> scores(signs[0].size());
    double squares = 0;  // std::accumulate from a literal 0 would add integers (OKR-SCORE-001)
    for (std::size_t row = 0; row < hidden.size(); row++) {
        squares += double(hidden[row]) * hidden[row];
        for (std::size_t expert = 0; expert < scores.size(); expert++)
            scores[expert] += signs[row][expert] == '+' ? hidden[row] : -hidden[row];
    }
    if (squares != 0)  // 0 / 0 is NaN (OKR-SCORE-002)
        for (double& score : scores) score /= std::sqrt(squares);
    return scores;
}

struct Selection {
    std::vector<int> indices;
    bool opportunity;
};

// Chapters ZONE to FAIL, for one token.
Selection select(const Row& choice, const Row& key, int k, double epsilon, bool boundary, double strength) {
    const int experts = choice.size();
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    auto native = [&] { return Selection{{order.begin(), order.begin() + k}, false}; };
    // A comparison with NaN is false, and a sort that meets one has undefined behaviour. So soundness comes first, and
    // asks v < INFINITY of each v: std::max_element would pass a NaN over (OKR-FAIL-001).
    const auto candidates = std::ranges::count_if(choice, [](float v) { return v > -INFINITY; });
    if (candidates < k || !std::ranges::all_of(choice, [](float v) { return v < INFINITY; })) return native();
    // std::sort, std::partial_sort and std::priority_queue promise no order among equals (OKR-TIE).
    std::ranges::stable_sort(order, std::greater{}, [&](int e) { return choice[e]; });
    if (!std::ranges::all_of(key, [](float v) { return std::isfinite(v); })) return native();

    // There is no order[k] where k = E, and C++ would read it all the same (OKR-ZONE-008).
    const double out = k < experts ? choice[order[k]] : -INFINITY;
    const double edge = choice[order[boundary ? k - 1 : 0]] - epsilon;
    std::vector<bool> runs(experts);  // made anew for each token (OKR-SEL-005); at first, who is locked
    std::vector<int> pool;
    for (int e = 0; e < experts; e++) {
        if (boundary && choice[e] > out + epsilon) runs[e] = true;
        // The edge may be -inf, and the barred are not beyond it (OKR-ZONE-009).
        if (!runs[e] && choice[e] >= edge && choice[e] > -INFINITY) pool.push_back(e);
    }
    const int free = k - std::ranges::count(runs, true);
    if (free <= 0 || free >= int(pool.size())) return native();  // unsigned size() would make a negative number huge

    std::vector<double> preference(key.begin(), key.end());
    if (strength < INFINITY)  // inf * 0 is NaN (OKR-STR-001)
        for (int e : pool) preference[e] = choice[e] + strength * key[e];
    std::ranges::stable_sort(pool, std::greater{}, [&](int e) { return preference[e]; });
    for (int e : pool | std::views::take(free)) runs[e] = true;
    std::erase_if(order, [&](int e) { return !runs[e]; });  // k are left, still by choice score (OKR-SEL-004)
    return {order, true};
}

std::string reply(const std::string& function, const Json& given) {
    if (function == "projection") {
        const Json &stack = given["stack"], &layer = given["layer"], &d = given["hidden_size"];
        const Bytes secret = from_hex(given["secret"].text);
        const int experts = given["num_experts"].integer();
        return "{\"projection\": " + json(projection(secret, stack.text, layer.integer(), d.integer(), experts)) + "}";
    }
    if (function == "key_scores") {
        std::vector<std::vector<double>> scores;
        const auto signs = given["projection"].texts();
        for (const Json& hidden : given["hidden"].list) scores.push_back(key_scores(hidden.numbers(), signs));
        return "{\"key_scores\": " + json(scores) + "}";
    }
    if (function != "select") return "{\"unsupported\": true}";
    const int k = given["top_k"].integer(), experts = given["experts"].integer();
    const double epsilon = given["epsilon"].number(), strength = given["strength"].number();
    const bool boundary = given["zone"].text == "boundary", max = given["zone"].text == "max";
    // Each number must pass. NaN would not fail a test such as epsilon < 0 (OKR-ZONE-001).
    if (!(1 <= k && k <= experts && epsilon >= 0 && strength > 0 && (boundary || max)))
        throw std::invalid_argument("a setting is out of range");
    std::vector<std::vector<int>> indices;
    std::vector<bool> opportunity;
    const auto &choice = given["choice"].list, &key = given["key_scores"].list;
    for (std::size_t token = 0; token < choice.size(); token++) {
        const Selection found = select(choice[token].numbers(), key[token].numbers(), k, epsilon, boundary, strength);
        indices.push_back(found.indices);
        opportunity.push_back(found.opportunity);
    }
    return "{\"indices\": " + json(indices) + ", \"opportunity\": " + json(opportunity) + "}";
}

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        const char* p = line.c_str();
        std::string answer;
        try {
            const Json request = read_json(p);
            answer = reply(request["function"].text, request["arguments"]);
        } catch (const std::exception& error) {
            answer = "{\"error\": " + json(std::string(error.what())) + "}";
        }
        std::cout << answer << std::endl;  // '\n' would leave the answer in a buffer, and the suite waiting
    }
}
