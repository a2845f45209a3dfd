// bootstrap.cpp: how ranks meet: by TCP at the address of the id, as NCCL's do, for the name of the memory that they share.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "communicator.h"

namespace nccl {

namespace {

constexpr uint32_t MAGIC = 0x6473724e;
constexpr size_t ROOM = 256u << 20;                  // below this, /dev/shm is one of a container, and too small

// What a rank says first, and what it is answered.
struct Hello { uint32_t magic; int32_t rank, size, device; };
struct Welcome { int32_t status; char text[248]; };  // a path, or what is wrong

struct Socket {
    int file = -1;
    explicit Socket(int f) : file(f) {}
    Socket(Socket&& other) : file(other.file) { other.file = -1; }
    Socket(const Socket&) = delete;
    ~Socket() { if (file >= 0) close(file); }
};

// "host:port" or "[address]:port".
bool resolve(const std::string& address, bool listens, addrinfo** found) {
    const size_t colon = address.rfind(':');
    if (colon == std::string::npos) return false;
    std::string host = address.substr(0, colon);
    if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC, hints.ai_socktype = SOCK_STREAM, hints.ai_flags = listens ? AI_PASSIVE : 0;
    return getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, found) == 0;
}

int listen_at(const std::string& address) {
    addrinfo* found = nullptr;
    if (!resolve(address, true, &found)) return -1;
    const int file = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool listens = bind(file, found->ai_addr, found->ai_addrlen) == 0 && listen(file, MOST) == 0;
    freeaddrinfo(found);
    if (listens) return file;
    close(file);
    return -1;
}

bool read_all(int file, void* to, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        const ssize_t got = read(file, static_cast<char*>(to) + at, bytes - at);
        if (got <= 0) return false;
        at += static_cast<size_t>(got);
    }
    return true;
}

bool write_all(int file, const void* from, size_t bytes) { return send(file, from, bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes); }

// Memory for all ranks, as a file that has no name any more once all have it.
bool make_shared(size_t bytes, std::string* path) {
    struct statvfs room;
    const bool has_room = statvfs("/dev/shm", &room) == 0 && static_cast<size_t>(room.f_bavail) * room.f_bsize >= ROOM;
    std::string name = std::string(has_room ? "/dev/shm" : "/tmp") + "/dsr-nccl-XXXXXX";
    const int file = mkostemp(name.data(), O_CLOEXEC);
    if (file < 0) return false;
    const bool grown = ftruncate(file, static_cast<off_t>(bytes)) == 0;
    close(file);
    *path = name;
    return grown;
}

size_t slot_bytes() { return number("DSR_STANDIN_NCCL_SLOT", 64u << 20); }
size_t shared_bytes(int size) { return (sizeof(Shared) + 4095) / 4096 * 4096 + slot_bytes() * static_cast<size_t>(size); }

// The root: takes one rank after the other, and tells all where their memory is, or what is wrong.
void serve(int file) {
    const Socket listener(file);
    std::vector<Socket> ranks;
    std::vector<Hello> hellos;
    std::string wrong;
    do {
        Socket rank(accept4(file, nullptr, nullptr, SOCK_CLOEXEC));
        Hello hello;
        if (rank.file < 0) return;
        if (!read_all(rank.file, &hello, sizeof hello) || hello.magic != MAGIC) continue;      // somebody else
        for (const Hello& other : hellos) {
            if (other.size != hello.size) wrong = text("rank %d says that there are %d ranks, rank %d says %d", other.rank, other.size, hello.rank, hello.size);
            else if (other.rank == hello.rank) wrong = text("rank %d of %d has checked in twice", hello.rank, hello.size);
            else if (other.device == hello.device) wrong = text("Duplicate GPU detected: ranks %d and %d both on device %d", other.rank, hello.rank, hello.device);
        }
        hellos.push_back(hello);
        ranks.push_back(std::move(rank));
    } while (hellos.empty() || (wrong.empty() && static_cast<int>(ranks.size()) < hellos.front().size));
    std::string path;
    if (wrong.empty() && !make_shared(shared_bytes(hellos.front().size), &path)) wrong = "no memory that processes can share";
    Welcome welcome{wrong.empty() ? OK : INVALID_USAGE, ""};
    snprintf(welcome.text, sizeof welcome.text, "%s", wrong.empty() ? path.c_str() : wrong.c_str());
    // Rank 0 last: it removes the name of the memory, and its process, in which this runs, may end at once.
    for (const bool is_last : {false, true}) {
        for (size_t i = 0; i < ranks.size(); ++i) {
            if ((hellos[i].rank == 0) != is_last) continue;
            char done;
            write_all(ranks[i].file, &welcome, sizeof welcome);
            read_all(ranks[i].file, &done, 1);
        }
    }
}

// Connects as soon as the root is there; -1 once it is aborted.
int connect_to(const Communicator& communicator, const std::string& address) {
    while (!communicator.is_aborted.load()) {
        addrinfo* found = nullptr;
        if (resolve(address, false, &found)) {
            const int file = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            const bool connected = connect(file, found->ai_addr, found->ai_addrlen) == 0;
            freeaddrinfo(found);
            if (connected) return file;
            close(file);
        }
        usleep(10000);
    }
    return -1;
}

}  // namespace

Status make_id(const std::string& address, Id* id) {
    memset(id, 0, sizeof *id);
    if (!address.empty()) {
        addrinfo* found = nullptr;
        if (address.size() >= sizeof id->bytes || !resolve(address, false, &found)) return INVALID_ARGUMENT;
        freeaddrinfo(found);
        memcpy(id->bytes, address.data(), address.size());
        return OK;
    }
    const int file = listen_at("127.0.0.1:0");
    sockaddr_in own{};
    socklen_t bytes = sizeof own;
    if (file < 0 || getsockname(file, reinterpret_cast<sockaddr*>(&own), &bytes) != 0) return SYSTEM_ERROR;
    snprintf(id->bytes, sizeof id->bytes, "127.0.0.1:%d", ntohs(own.sin_port));
    std::thread(serve, file).detach();
    return OK;
}

void join(Communicator* c, const Id& id, bool listens) {
    const std::string address(id.bytes, strnlen(id.bytes, sizeof id.bytes));
    if (listens && c->rank == 0) {
        const int file = listen_at(address);
        if (file < 0) return c->fail(SYSTEM_ERROR, "no rank can listen at " + address + ": " + strerror(errno));
        std::thread(serve, file).detach();
    }
    const Socket root(connect_to(*c, address));
    if (root.file < 0) return;
    const Hello hello{MAGIC, c->rank, c->size, c->device};
    write_all(root.file, &hello, sizeof hello);
    pollfd answer{root.file, POLLIN, 0};
    while (poll(&answer, 1, 20) == 0) {
        if (c->is_aborted.load()) return;
    }
    Welcome welcome;
    if (!read_all(root.file, &welcome, sizeof welcome)) return c->fail(REMOTE_ERROR, "the root is gone");
    welcome.text[sizeof welcome.text - 1] = 0;
    if (welcome.status != OK) {
        write_all(root.file, "d", 1);
        return c->fail(static_cast<Status>(welcome.status), welcome.text);
    }
    const int file = open(welcome.text, O_RDWR | O_CLOEXEC);
    void* at = file < 0 ? MAP_FAILED : mmap(nullptr, shared_bytes(c->size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (c->rank == 0) unlink(welcome.text);
    if (at == MAP_FAILED) return c->fail(SYSTEM_ERROR, std::string("no memory that processes can share: ") + strerror(errno));
    c->shared = static_cast<Shared*>(at);
    c->slot = slot_bytes();
    c->slots = static_cast<char*>(at) + (shared_bytes(c->size) - c->slot * static_cast<size_t>(c->size));
    write_all(root.file, "d", 1);
    int expected = IN_PROGRESS;
    c->status.compare_exchange_strong(expected, OK);
}

}  // namespace nccl
