package filter
import ("testing";"picket.internal/wgtun/packet")
var sink uint64
func BenchmarkStage(b *testing.B) {
	f, segs := manyFlows(b, 1)
	pkt := segs[0]
	b.Run("1parse", func(b *testing.B){ var v packet.View; for i:=0;i<b.N;i++ { v.Parse(pkt) } })
	b.Run("2key", func(b *testing.B){ var v packet.View; for i:=0;i<b.N;i++ { v.Parse(pkt); var k key; k.set(&v, egress); sink+=k.meta } })
	b.Run("3hash", func(b *testing.B){ var v packet.View; for i:=0;i<b.N;i++ { v.Parse(pkt); var k key; k.set(&v, egress); sink+=f.table.hash(&k) } })
	b.Run("4find", func(b *testing.B){ var v packet.View; for i:=0;i<b.N;i++ { v.Parse(pkt); var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); if s.find(h,&k)==nil {b.Fatal()} } })
	b.Run("4afind", func(b *testing.B){ var v packet.View; v.Parse(pkt); var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); for i:=0;i<b.N;i++ { if s.find(h,&k)==nil {b.Fatal()} } })
	b.Run("4bhash", func(b *testing.B){ var v packet.View; v.Parse(pkt); var k key; k.set(&v, egress);  for i:=0;i<b.N;i++ { k.meta=f.table.hash(&k)&1|k.meta  } })
	b.Run("0cycles", func(b *testing.B){ x:=uint64(1); for i:=0;i<b.N;i++ { x=x*x;x=x*x;x=x*x;x=x*x;x=x*x;x=x*x;x=x*x;x=x*x;x=x*x;x=x*x }; sink=x })
	b.Run("4cfollow", func(b *testing.B){ var v packet.View; v.Parse(pkt); var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); fl:=s.find(h,&k); for i:=0;i<b.N;i++ { f.follow(fl,&v,egress) } })
	b.Run("4dread", func(b *testing.B){ var v packet.View; v.Parse(pkt); var sg packet.TCPSegment;  for i:=0;i<b.N;i++ { v.ReadTCP(&sg); sink+=uint64(sg.Seq)  } })
	b.Run("4efits", func(b *testing.B){ var v packet.View; v.Parse(pkt); var sg packet.TCPSegment; v.ReadTCP(&sg); var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); fl:=s.find(h,&k); for i:=0;i<b.N;i++ { if !fitsWindow(&fl.ends[0],&fl.ends[1],&sg) {b.Fatal()} } })
	b.Run("4ftcp", func(b *testing.B){ var v packet.View; v.Parse(pkt);  var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); fl:=s.find(h,&k); for i:=0;i<b.N;i++ { fl.followTCP(&v,egress,1) } })
	b.Run("4gjudge", func(b *testing.B){ var v packet.View; v.Parse(pkt);  var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); fl:=s.find(h,&k); for i:=0;i<b.N;i++ { fl.judge(&v,egress,1) } })
	b.Run("4hlock", func(b *testing.B){ var v packet.View; v.Parse(pkt);  var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); fl:=s.find(h,&k); for i:=0;i<b.N;i++ { fl.mu.Lock();sink++;fl.mu.Unlock() } })
	b.Run("4iclock", func(b *testing.B){ for i:=0;i<b.N;i++ { f.clock.read() } })
	b.Run("5follow", func(b *testing.B){ var v packet.View; for i:=0;i<b.N;i++ { v.Parse(pkt); var k key; k.set(&v, egress); h:=f.table.hash(&k);s:=f.table.shard(h); f.follow(s.find(h,&k),&v,egress) } })
	b.Run("6egress", func(b *testing.B){ for i:=0;i<b.N;i++ { f.Egress(pkt) } })
}
