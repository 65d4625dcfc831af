package site

import (
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// products are NVIDIA's GPUs by compute capability: those that https://developer.nvidia.com/cuda-gpus
// and https://developer.nvidia.com/cuda-legacy-gpus list, and by their chips some that these pages leave
// out. Names that were sold with chips of two capabilities (GeForce GTX 860M, GT 730) are not here:
// nvidia-smi has to tell. arm64 stands at those that are part of a computer with an Arm processor.
var products = []struct {
	sm    matrix.SM
	arm64 bool
	names string
}{
	{30, false, `GeForce GTX 770, GeForce GTX 760, GeForce GTX 690, GeForce GTX 680, GeForce GTX 670, GeForce GTX 660 Ti,
		GeForce GTX 660, GeForce GTX 650 Ti BOOST, GeForce GTX 650 Ti, GeForce GTX 650, GeForce GTX 880M, GeForce GTX 870M,
		GeForce GTX 780M, GeForce GTX 770M, GeForce GTX 765M, GeForce GTX 760M, GeForce GTX 680M, GeForce GTX 670MX,
		GeForce GTX 660M, GeForce GT 750M, GeForce GT 650M, Quadro K5000, Quadro K4200, Quadro K4000, Quadro K2000, Quadro K600,
		Quadro K420, Quadro K5100M, Quadro K4100M, Quadro K3100M, Quadro K2100M, Quadro K1100M, Tesla K10`},
	{35, false, `GeForce GTX TITAN Z, GeForce GTX TITAN Black, GeForce GTX TITAN, GeForce GTX 780 Ti, GeForce GTX 780, GeForce GT 720,
		GeForce GT 710, GeForce 920M, Quadro K6000, Quadro K5200, Tesla K40, Tesla K20, Tesla K20X`},
	{37, false, `Tesla K80`},
	{50, false, `GeForce GTX 750 Ti, GeForce GTX 750, GeForce GTX 745, GeForce GTX 960M, GeForce GTX 950M, GeForce GTX 850M,
		GeForce 940MX, GeForce 940M, GeForce 930MX, GeForce 930M, GeForce 845M, GeForce 840M, GeForce 830M, GeForce MX130, GeForce MX110,
		Quadro K2200, Quadro K1200, Quadro K620, Quadro M5000M, Quadro M4000M, Quadro M3000M, Quadro M2000M, Quadro M1200, Quadro M1000M, Quadro M600M, Quadro M520,
		Quadro M500M, NVS 810, Tesla M10`},
	{52, false, `GeForce GTX TITAN X, GeForce GTX 980 Ti, GeForce GTX 980, GeForce GTX 970, GeForce GTX 960, GeForce GTX 950,
		GeForce GTX 980M, GeForce GTX 970M, GeForce GTX 965M, Quadro M6000, Quadro M5500, Quadro M5000, Quadro M4000, Quadro M2000,
		Quadro M2200, Quadro M620, Tesla M60, Tesla M40, Tesla M6, Tesla M4`},
	{53, true, `Jetson TX1, Jetson Nano, Tegra X1`},
	{60, false, `Tesla P100, Quadro GP100`},
	{61, false, `TITAN Xp, TITAN X (Pascal), GeForce GTX 1080 Ti, GeForce GTX 1080, GeForce GTX 1070 Ti, GeForce GTX 1070,
		GeForce GTX 1060, GeForce GTX 1050 Ti, GeForce GTX 1050, GeForce GT 1030, GeForce GT 1010, GeForce MX350, GeForce MX330,
		GeForce MX250, GeForce MX230, GeForce MX150, Quadro P6000, Quadro P5200, Quadro P5000, Quadro P4200, Quadro P4000, Quadro P3200,
		Quadro P3000, Quadro P2200, Quadro P2000, Quadro P1000, Quadro P620, Quadro P600, Quadro P520, Quadro P500, Quadro P400, Tesla P40,
		Tesla P6, Tesla P4`},
	{62, true, `Jetson TX2`},
	{70, false, `Tesla V100, Tesla V100S, TITAN V, Quadro GV100`},
	{72, true, `Jetson AGX Xavier, Jetson Xavier NX, Xavier`},
	{75, false, `GeForce RTX 2080 Ti, GeForce RTX 2080 SUPER, GeForce RTX 2080, GeForce RTX 2070 SUPER, GeForce RTX 2070,
		GeForce RTX 2060 SUPER, GeForce RTX 2060, GeForce GTX 1660 Ti, GeForce GTX 1660 SUPER, GeForce GTX 1660, GeForce GTX 1650 Ti,
		GeForce GTX 1650 SUPER, GeForce GTX 1650, GeForce GTX 1630, GeForce MX550, GeForce MX450, TITAN RTX, Tesla T4, Quadro RTX 8000,
		Quadro RTX 6000, Quadro RTX 5000, Quadro RTX 4000, Quadro RTX 3000, T2000, T1200, T1000, T600, T500, T400`},
	{80, false, `A100, A100X, A800, A30, A30X`},
	{86, false, `GeForce RTX 3090 Ti, GeForce RTX 3090, GeForce RTX 3080 Ti, GeForce RTX 3080, GeForce RTX 3070 Ti, GeForce RTX 3070,
		GeForce RTX 3060 Ti, GeForce RTX 3060, GeForce RTX 3050 Ti, GeForce RTX 3050, GeForce RTX 2050, GeForce MX570, RTX A6000, RTX A5500,
		RTX A5000, RTX A4500, RTX A4000, RTX A3000, RTX A2000, RTX A1000, RTX A500, RTX A400, A40, A16, A10, A10G, A10M, A2`},
	{87, true, `Jetson AGX Orin, Jetson Orin NX, Jetson Orin Nano, Orin`},
	{89, false, `GeForce RTX 4090, GeForce RTX 4090 D, GeForce RTX 4080 SUPER, GeForce RTX 4080, GeForce RTX 4070 Ti SUPER,
		GeForce RTX 4070 Ti, GeForce RTX 4070 SUPER, GeForce RTX 4070, GeForce RTX 4060 Ti, GeForce RTX 4060, GeForce RTX 4050,
		RTX 6000 Ada Generation, RTX 5880 Ada Generation, RTX 5000 Ada Generation, RTX 4500 Ada Generation, RTX 4000 Ada Generation,
		RTX 4000 SFF Ada Generation, RTX 3500 Ada Generation, RTX 3000 Ada Generation, RTX 2000 Ada Generation, RTX 1000 Ada Generation,
		RTX 500 Ada Generation, L40S, L40, L20, L4, L2`},
	{90, false, `H200, H100, H800, H20`},
	{90, true, `GH200`},
	{100, false, `B200`},
	{100, true, `GB200`},
	{103, false, `B300`},
	{103, true, `GB300`},
	{110, true, `Jetson AGX Thor, Jetson T5000, Jetson T4000, Thor`},
	{120, false, `GeForce RTX 5090, GeForce RTX 5090 D, GeForce RTX 5080, GeForce RTX 5070 Ti, GeForce RTX 5070, GeForce RTX 5060 Ti,
		GeForce RTX 5060, GeForce RTX 5050, RTX PRO 6000 Blackwell, RTX PRO 5000 Blackwell, RTX PRO 4500 Blackwell, RTX PRO 4000 Blackwell,
		RTX PRO 3000 Blackwell, RTX PRO 2000 Blackwell, RTX PRO 1000 Blackwell, RTX PRO 500 Blackwell`},
	{121, true, `GB10`},
}

// A product is one of NVIDIA's GPUs.
type product struct {
	Name  string
	SM    matrix.SM
	ARM64 bool
}

// allProducts lists them, ascending by compute capability.
func allProducts() []product {
	var all []product
	for _, of := range products {
		for name := range strings.SplitSeq(of.names, ",") {
			all = append(all, product{strings.TrimSpace(name), of.sm, of.arm64})
		}
	}
	return all
}
