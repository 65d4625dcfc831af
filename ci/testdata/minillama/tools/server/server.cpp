#include "common.h"
#include "server-context.h"
#include "ui.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <string>

int llama_server(int argc, char ** argv);

static std::string response(const char * status, const std::string & headers, const std::string & body) {
    return "HTTP/1.1 " + std::string(status) + "\r\n" + headers + "Content-Length: " + std::to_string(body.size()) +
           "\r\nConnection: close\r\n\r\n" + body;
}

static std::string answer(const std::string & request) {
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

// Serves the embedded UI and /health, one connection at a time, until it is killed.
static int serve(const common_params & params) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port   = htons(uint16_t(params.port));
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const int reuse    = 1;
    if (listener < 0 || inet_pton(AF_INET, params.host.c_str(), &address.sin_addr) != 1 ||
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse) != 0 ||
        bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || listen(listener, 8) != 0) {
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
        char buffer[4096];
        const ssize_t size = read(connection, buffer, sizeof buffer);
        if (size > 0) {
            const std::string reply = answer(std::string(buffer, size_t(size)));
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
