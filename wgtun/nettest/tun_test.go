package nettest

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

var _ tun.Device = (*TUN)(nil)

func buffers(n int) [][]byte {
	b := make([][]byte, n)
	for i := range b {
		b[i] = make([]byte, 100)
	}
	return b
}

func TestTUNReadsBatches(t *testing.T) {
	d := NewTUN(1280)
	defer d.Close()
	if got := d.Send([]byte("a"), make([]byte, 90), []byte("ccc")); got != 3 {
		t.Fatalf("took %d", got)
	}
	bufs, sizes := buffers(DefaultBatch), make([]int, DefaultBatch)
	n, err := d.Read(bufs, sizes, 16)
	if n != 3 || err != nil || sizes[0] != 1 || sizes[1] != 0 || sizes[2] != 3 || string(bufs[2][16:19]) != "ccc" {
		t.Errorf("n %d, sizes %v, %v", n, sizes, err)
	}
}

func TestTUNCloseUnblocksAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewTUN(1280)
		d.Stall()
		errs := make(chan error, 3)
		go func() { _, err := d.Read(buffers(1), make([]int, 1), 0); errs <- err }()
		go func() { _, err := d.Write(buffers(1), 0); errs <- err }()
		go func() { _, err := d.Recv(t.Context()); errs <- err }()
		synctest.Wait()
		if len(errs) != 0 {
			t.Fatal("something did not block")
		}
		_, _ = d.Close(), d.Close()
		for range 3 {
			if err := <-errs; !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		}
		if up, open := <-d.Events(); up != tun.EventUp || !open {
			t.Error("no EventUp")
		}
		if _, open := <-d.Events(); open {
			t.Error("events still open")
		}
		if d.Send([]byte{1}) != 0 {
			t.Error("sent after Close")
		}
	})
}

func TestTUNStallHoldsWritesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewTUN(1280)
		d.Stall()
		go func() {
			time.Sleep(time.Second)
			d.Resume()
		}()
		start := time.Now()
		if _, err := d.Write([][]byte{[]byte("..x")}, 2); err != nil || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if p, err := d.Recv(t.Context()); string(p) != "x" || err != nil {
			t.Errorf("%q, %v", p, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := d.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
