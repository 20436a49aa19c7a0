# Both programs, static, in an image that holds nothing else.
#
#   docker build -t picket .
#   docker run -v picket:/var/lib/picket-coordinator -p 8443:8443 -p 3478-3479:3478-3479/udp picket picket-coordinator serve --url https://picket.example.com:8443
#   docker run -v node:/state picket picket run --state /state --socket /state/picket.sock --tun=userspace --socks5 127.0.0.1:1080
#
# A node with a real TUN needs: --user 0 --cap-add NET_ADMIN --device /dev/net/tun
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ENV CGO_ENABLED=0
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/picket ./cmd/picket-coordinator
# Folders that the programs may write, owned by the user they run as.
RUN mkdir -p /root-fs/var/lib/picket-coordinator /root-fs/state /root-fs/tmp && \
    chmod 700 /root-fs/var/lib/picket-coordinator /root-fs/state && chmod 1777 /root-fs/tmp && \
    chown -R 65532:65532 /root-fs/var/lib/picket-coordinator /root-fs/state

FROM scratch
COPY --from=build /root-fs /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/picket /out/picket-coordinator /usr/local/bin/
ENV PATH=/usr/local/bin
USER 65532:65532
VOLUME ["/var/lib/picket-coordinator", "/state"]
EXPOSE 8443 3478/udp 3479/udp
