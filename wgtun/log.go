package wgtun

import (
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/device"
)

// wireguard-go reports some errors once a packet: this many lines pass at once, and then one each errorInterval.
const (
	errorBurst    = 10
	errorInterval = 5 * time.Second
)

// deviceLogger leads wireguard-go's own log into ours. It names peers by eight characters of their public keys.
func deviceLogger(l *slog.Logger) *device.Logger {
	limit := rate.NewLimiter(rate.Every(errorInterval), errorBurst)
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			l.Debug("wireguard", "text", deviceText{format, args})
		},
		Errorf: func(format string, args ...any) {
			if limit.Allow() {
				l.Warn("wireguard", "text", deviceText{format, args})
			}
		},
	}
}

// deviceText is formatted only when its line is written: wireguard-go logs per packet in places.
type deviceText struct {
	format string
	args   []any
}

// LogValue formats the text.
func (d deviceText) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf(d.format, d.args...)) }
