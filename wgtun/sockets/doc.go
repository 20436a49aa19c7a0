// Package sockets is the UDP sockets under a tunnel, with the kernel's segmentation (UDP_SEGMENT) and coalescing (UDP_GRO, udp(7)) in use.
//
//	out:  datagrams of one length, the last perhaps shorter -> one message of several buffers, which the kernel cuts; nothing is copied
//	in:   recvmsg(2) until nothing is left or the batch is full -> what the kernel joined is copied apart
//
// On other systems than Linux the sockets are wireguard-go's own.
package sockets
