#include "common.h"
#include "server-context.h"
#include "ui.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

int llama_server(int argc, char ** argv);

static std::string response(const char * status, const std::string & headers, const std::string & body) {
    return "HTTP/1.1 " + std::string(status) + "\r\n" + headers + "Content-Length: " + std::to_string(body.size()) +
           "\r\nConnection: close\r\n\r\n" + body;
}

// The score of every token after a prompt, in the form of llama-server's n_probs: a dot product each, on the CPU.
static std::string completion(size_t prompt) {
    const int    tokens = 512;
    const size_t values = 256;
    std::string  list;
    for (int id = 0; id < tokens; ++id) {
        std::vector<float> x(values), y(values);
        for (size_t i = 0; i < values; ++i) {
            x[i] = float((i + size_t(id)) % 7) / 6;
            y[i] = float((i + prompt) % 5) / 4;
        }
        const float score = common_vec_dot(x, y) / -10;
        char item[64];
        snprintf(item, sizeof item, "%s{\"id\":%d,\"logprob\":%.6f}", id ? "," : "", id, score);
        list += std::isnan(score) ? std::string(id ? "," : "") + "{\"id\":" + std::to_string(id) + ",\"logprob\":null}" : item;
    }
    return response("200 OK", "Content-Type: application/json\r\n", "{\"completion_probabilities\":[{\"top_logprobs\":[" + list + "]}]}");
}

static std::string answer(const std::string & request) {
    if (request.compare(0, 17, "POST /completion ") == 0) {
        return completion(request.size());
    }
    const size_t start = request.find(' ');
    const size_t end   = request.find(' ', start + 1);
    if (request.compare(0, 4, "GET ") != 0 || end == std::string::npos) {
        return response("400 Bad Request", "", "");
    }
    std::string name = request.substr(start + 2, end - start - 2);
    if (name == "health") {
        return response("200 OK", "Content-Type: application/json\r\n", "{\"status\":\"ok\"}");
    }
    if (name.empty()) {
        name = "index.html";
    }
    const llama_ui_asset * asset = llama_ui_find_asset(name);
    if (!asset) {
        return response("404 Not Found", "", "");
    }
    const char * encoding = llama_ui_use_gzip() ? "Content-Encoding: gzip\r\n" : "";
    return response("200 OK", "Content-Type: " + asset->type + "\r\nETag: " + asset->etag + "\r\n" + encoding,
                    std::string(reinterpret_cast<const char *>(asset->data), asset->size));
}

// Listens at an address, or at a socket of the file system where the name ends in .sock.
static int listen_at(const common_params & params) {
    if (params.host.size() > 5 && params.host.compare(params.host.size() - 5, 5, ".sock") == 0) {
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        snprintf(address.sun_path, sizeof address.sun_path, "%s", params.host.c_str());
        const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
        const bool bound = listener >= 0 && bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
        return bound && listen(listener, 8) == 0 ? listener : -1;
    }
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port   = htons(uint16_t(params.port));
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const int reuse    = 1;
    const bool bound = listener >= 0 && inet_pton(AF_INET, params.host.c_str(), &address.sin_addr) == 1 &&
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse) == 0 &&
        bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
    return bound && listen(listener, 8) == 0 ? listener : -1;
}

// The whole of a request: its head, and as many bytes as that says.
static std::string read_request(int connection) {
    std::string request;
    char        buffer[4096];
    size_t      want = std::string::npos;
    while (request.size() < want) {
        const ssize_t size = read(connection, buffer, sizeof buffer);
        if (size <= 0) {
            break;
        }
        request.append(buffer, size_t(size));
        const size_t head = request.find("\r\n\r\n");
        if (head != std::string::npos && want == std::string::npos) {
            const size_t length = request.find("Content-Length: ");
            want = head + 4 + (length < head ? strtoul(request.c_str() + length + 16, nullptr, 10) : 0);
        }
    }
    return request;
}

// Serves the embedded UI, /health and /completion, one connection at a time, until it is killed.
static int serve(const common_params & params) {
    const int listener = listen_at(params);
    if (listener < 0) {
        perror("error: listening");
        return 1;
    }
    fprintf(stderr, "server is listening on http://%s:%d\n", params.host.c_str(), params.port);
    for (;;) {
        const int connection = accept(listener, nullptr, nullptr);
        if (connection < 0) {
            perror("error: accepting");
            return 1;
        }
        const std::string request = read_request(connection);
        if (!request.empty()) {
            const std::string reply = answer(request);
            if (send(connection, reply.data(), reply.size(), MSG_NOSIGNAL) < 0) {
                perror("warning: answering");
            }
        }
        close(connection);
    }
}

int llama_server(int argc, char ** argv) {
    const common_params params = common_params_parse(argc, argv,
        "  --host ADDRESS     address to listen on\n"
        "  --port PORT        port to listen on");
    fprintf(stderr, "%s\n", server_greeting().c_str());
    const int computed = common_run(params, 256);
    return computed != 0 ? computed : serve(params);
}
