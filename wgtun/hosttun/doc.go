// Package hosttun is the host's TUN device, which takes and gives packets as large as the kernel makes them.
//
// With segmentation offload the kernel does not cut what programs send: one read brings up to 64 KiB of one TCP or UDP flow under one set of
// headers, with a struct virtio_net_hdr (linux/virtio_net.h) in front that says how to cut it.
//
//	out:  read(2) until nothing is left or the batch is full -> judge each packet whole -> cut.go cuts it into the batch's buffers
//	in:   packets of one batch -> merge.go joins those of one flow that continue each other -> writev(2), nothing copied
//
// The judge sees a packet before it is cut, so that its cost is paid once for up to 64 KiB; what the cut packets say of themselves is what
// the judge has seen, because cutting is refused where the kernel's description and the packet's own headers disagree.
//
// Where there is no offload, and on other systems than Linux, the device is wireguard-go's own.
package hosttun

// Judge tells whether a packet may pass; it is to be cut into count packets, at least 1, of which none is longer than longest bytes. It must not
// keep pkt. The transport checksum of a packet to be cut is not complete yet.
type Judge func(pkt []byte, count, longest int) bool
