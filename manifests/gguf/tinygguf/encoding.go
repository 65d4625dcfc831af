package tinygguf

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// An encoding is one of ggml's tensor types, with the number GGUF has for it.
type encoding struct {
	id        uint32
	block     int // values in a block
	blockSize int // bytes in a block
	write     func(to []byte, random *rand.Rand, deviation float64)
}

func (e encoding) rowSize(values int) int { return values / e.block * e.blockSize }

// row gives one row of random values.
func (e encoding) row(random *rand.Rand, values int, deviation float64) []byte {
	row := make([]byte, e.rowSize(values))
	for at := 0; at < len(row); at += e.blockSize {
		e.write(row[at:at+e.blockSize], random, deviation)
	}
	return row
}

// The deviation of numbers spread evenly over -127…127 and -8…7.
const (
	deviationInt8 = 73.3
	deviationInt4 = 4.6
)

var (
	// ones is f32 holding 1, the weights of a norm that changes nothing.
	ones = encoding{id: 0, block: 1, blockSize: 4, write: func(to []byte, _ *rand.Rand, _ float64) {
		binary.LittleEndian.PutUint32(to, math.Float32bits(1))
	}}
	f16 = encoding{id: 1, block: 1, blockSize: 2, write: func(to []byte, random *rand.Rand, deviation float64) {
		value := float64(random.IntN(255)-127) / deviationInt8 * deviation
		binary.LittleEndian.PutUint16(to, half(value))
	}}
	// q4_0 is a factor and 32 numbers of four bits, 8 too large.
	q4_0 = encoding{id: 2, block: 32, blockSize: 2 + 16, write: func(to []byte, random *rand.Rand, deviation float64) {
		binary.LittleEndian.PutUint16(to, half(deviation/deviationInt4))
		fill(to[2:], random)
	}}
	// q8_0 is a factor and 32 signed bytes.
	q8_0 = encoding{id: 8, block: 32, blockSize: 2 + 32, write: func(to []byte, random *rand.Rand, deviation float64) {
		binary.LittleEndian.PutUint16(to, half(deviation/deviationInt8))
		fill(to[2:], random)
	}}
	bf16 = encoding{id: 30, block: 1, blockSize: 2, write: func(to []byte, random *rand.Rand, deviation float64) {
		value := float32(float64(random.IntN(255)-127) / deviationInt8 * deviation)
		binary.LittleEndian.PutUint16(to, uint16(math.Float32bits(value)>>16))
	}}
	// q4_K is two factors, eight scales and eight minima of six bits, and 256 numbers of four bits:
	// factor × scale × number - factor × minimum. A minimum is half the range of its scale, so that
	// the values spread around 0.
	q4_K = encoding{id: 12, block: 256, blockSize: 2 + 2 + 12 + 128, write: func(to []byte, random *rand.Rand, deviation float64) {
		const (
			step          = 16   // of the scales, which are 16, 32 and 48
			rootMeanScale = 34.6 // of the three
			range4        = 7.5  // half of it
			minimumFactor = 8    // the minimum's factor in that of the scale
		)
		factor := deviation / rootMeanScale / deviationInt4
		binary.LittleEndian.PutUint16(to, half(factor))
		binary.LittleEndian.PutUint16(to[2:], half(factor*minimumFactor))
		var scales, minima [8]byte
		for i := range scales {
			scales[i] = byte(1+random.IntN(3)) * step
			minima[i] = byte(float64(scales[i]) * range4 / minimumFactor)
		}
		for i := range 4 { // the last four give their upper two bits to the first four
			to[4+i] = scales[i] | scales[i+4]>>4<<6
			to[8+i] = minima[i] | minima[i+4]>>4<<6
			to[12+i] = scales[i+4]&15 | minima[i+4]<<4
		}
		fill(to[16:], random)
	}}
)

// encodings are those that a matrix may have, by ggml's names.
func encodings() map[string]encoding {
	return map[string]encoding{"f16": f16, "bf16": bf16, "q4_0": q4_0, "q8_0": q8_0, "q4_K": q4_K}
}

// fill fills a multiple of eight bytes.
func fill(to []byte, random *rand.Rand) {
	for ; len(to) > 0; to = to[8:] {
		binary.LittleEndian.PutUint64(to, random.Uint64())
	}
}

// half gives the nearest half-precision number. It knows zero and normal numbers, which is
// what the deviations here give, and makes zero of what is smaller.
func half(value float64) uint16 {
	sign := uint16(0)
	if math.Signbit(value) {
		sign = 1 << 15
	}
	fraction, exponent := math.Frexp(math.Abs(value)) // fraction × 2^exponent, 0.5 ≤ fraction < 1
	if value == 0 || exponent < -13 {
		return sign
	}
	// 1.m × 2^(exponent-1): ten bits of m, an exponent with a bias of 15. A fraction that rounds
	// up to 2 carries into the exponent, as it should.
	bits := uint16(exponent-1+15)<<10 + uint16(math.RoundToEven((fraction*2-1)*1024))
	return sign | bits
}
