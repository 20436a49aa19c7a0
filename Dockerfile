# Both programs, static, in an image that holds nothing else.
#
#   docker build -t picket .
#   docker run -v picket:/var/lib/picket-coordinator -p 8443:8443 -p 3478-3479:3478-3479/udp picket picket-coordinator serve --url https://picket.example.com:8443
#   docker run -v node:/state -e PICKET_JOIN='https://…#…' -e PICKET_AUTH_KEY_FILE=… picket picket run --tun=userspace --socks5 127.0.0.1:1080
#
# docs/containers.md has the rest: a network interface, Kubernetes.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ENV CGO_ENABLED=0
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/picket ./cmd/picket-coordinator
# Folders that the programs may write. A node's is its own below /state, because volumes come with owners and modes of their engine's.
RUN mkdir -p /root-fs/var/lib/picket-coordinator /root-fs/state /root-fs/tmp && \
    chmod 700 /root-fs/var/lib/picket-coordinator && chmod 1777 /root-fs/tmp /root-fs/state && \
    chown -R 65532:65532 /root-fs/var/lib/picket-coordinator

FROM scratch
COPY --from=build /root-fs /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/picket /out/picket-coordinator /usr/local/bin/
ENV PATH=/usr/local/bin PICKET_STATE=/state/node PICKET_SOCKET=/state/node/run/picket.sock
USER 65532:65532
VOLUME ["/var/lib/picket-coordinator", "/state"]
EXPOSE 8443 3478/udp 3479/udp
