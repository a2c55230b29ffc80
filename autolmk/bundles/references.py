"""The literature behind autolmk's methods, as BibTeX: only what is certain of each entry."""

from __future__ import annotations

from dataclasses import dataclass

import autolmk


@dataclass(frozen=True)
class Reference:
    """An entry of the bibliography. kind: of the BibTeX entry. short: as a text cites it. fields: of the entry."""

    kind: str
    short: str
    fields: dict[str, str]

    def text(self) -> str:
        """The entry as a line of plain text."""
        where = next((self.fields[name] for name in ("journal", "booktitle", "publisher") if name in self.fields), "")
        volume = ", ".join(self.fields[name] for name in ("volume", "pages") if name in self.fields)
        link = f"doi:{self.fields['doi']}" if "doi" in self.fields else self.fields.get("url", "")
        version = self.fields.get("version", "")
        dated = f"{self.fields['author']} ({self.fields['year']})" if "year" in self.fields else self.fields["author"]
        parts = (dated, self.fields["title"], f"{where} {volume}".strip(), version and f"Version {version}", link)
        said = ". ".join(part for part in parts if part).replace(" and ", "; ", dated.count(" and "))
        return said.replace("{", "").replace("}", "").replace("--", "–") + "."

    def bibtex(self, key: str) -> str:
        """The entry under this key."""
        rows = "".join(f"  {name} = {{{value}}},\n" for name, value in self.fields.items())
        return f"@{self.kind}{{{key},\n{rows}}}"


REFERENCES: dict[str, Reference] = {
    "isensee2021": Reference(
        "article",
        "Isensee et al. 2021",
        {
            "author": "Isensee, Fabian and Jaeger, Paul F. and Kohl, Simon A. A. and Petersen, Jens and "
            "Maier-Hein, Klaus H.",
            "title": "{nnU-Net}: a self-configuring method for deep learning-based biomedical image segmentation",
            "journal": "Nature Methods",
            "volume": "18",
            "pages": "203--211",
            "year": "2021",
            "doi": "10.1038/s41592-020-01008-z",
        },
    ),
    "ronneberger2015": Reference(
        "inproceedings",
        "Ronneberger et al. 2015",
        {
            "author": "Ronneberger, Olaf and Fischer, Philipp and Brox, Thomas",
            "title": "{U-Net}: Convolutional Networks for Biomedical Image Segmentation",
            "booktitle": "Medical Image Computing and Computer-Assisted Intervention (MICCAI)",
            "year": "2015",
            "doi": "10.1007/978-3-319-24574-4_28",
        },
    ),
    "he2016": Reference(
        "inproceedings",
        "He et al. 2016",
        {
            "author": "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
            "title": "Deep Residual Learning for Image Recognition",
            "booktitle": "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)",
            "year": "2016",
            "doi": "10.1109/CVPR.2016.90",
        },
    ),
    "noothout2020": Reference(
        "article",
        "Noothout et al. 2020",
        {
            "author": "Noothout, Julia M. H. and others",
            "title": "Deep Learning-Based Regression and Classification for Automatic Landmark Localization in Medical "
            "Images",
            "journal": "IEEE Transactions on Medical Imaging",
            "year": "2020",
            "doi": "10.1109/TMI.2020.3009002",
        },
    ),
    "pang2023": Reference(
        "inproceedings",
        "Pang et al. 2023",
        {
            "author": "Pang, Yijie and Cheng, Pujin and Lyu, Junyan and Lin, Fan and Tang, Xiaoying",
            "title": "Prior Guided {3D} Medical Image Landmark Localization",
            "booktitle": "Medical Imaging with Deep Learning (MIDL)",
            "year": "2023",
            "url": "https://openreview.net/forum?id=Ae1KAltzEd",
        },
    ),
    "gong2025": Reference(
        "article",
        "Gong et al. 2025",
        {
            "author": "Gong, Haifan and Liu, Huixian and Wang, Yitao and Liu, Xiaoling and Wan, Xiang and "
            "Shi, Qiao and Li, Haofeng",
            "title": "Fetal Cerebellum Landmark Detection Based on {3D MRI}: Method and Benchmark",
            "journal": "IEEE Journal of Biomedical and Health Informatics",
            "year": "2025",
            "doi": "10.1109/JBHI.2025.3559702",
        },
    ),
    "loshchilov2019": Reference(
        "inproceedings",
        "Loshchilov and Hutter 2019",
        {
            "author": "Loshchilov, Ilya and Hutter, Frank",
            "title": "Decoupled Weight Decay Regularization",
            "booktitle": "International Conference on Learning Representations (ICLR)",
            "year": "2019",
        },
    ),
    "lei2018": Reference(
        "article",
        "Lei et al. 2018",
        {
            "author": "Lei, Jing and G'Sell, Max and Rinaldo, Alessandro and Tibshirani, Ryan J. and Wasserman, Larry",
            "title": "Distribution-Free Predictive Inference for Regression",
            "journal": "Journal of the American Statistical Association",
            "volume": "113",
            "pages": "1094--1111",
            "year": "2018",
            "doi": "10.1080/01621459.2017.1307116",
        },
    ),
    "efron1993": Reference(
        "book",
        "Efron and Tibshirani 1993",
        {
            "author": "Efron, Bradley and Tibshirani, Robert J.",
            "title": "An Introduction to the Bootstrap",
            "publisher": "Chapman and Hall",
            "year": "1993",
        },
    ),
}
FORMER = frozenset({"apga", "priorguided2023"})  # keys of earlier versions, which did not know the authors
TRAINERS: dict[str, tuple[str, tuple[str, ...]]] = {  # shipped trainer -> what it is, and what it comes from
    "heatmap": ("a U-Net that gives a heatmap a landmark, with a class for its absence", ("ronneberger2015",)),
    "apga": (
        "a U-Net with a second decoder for regions between landmarks, in training only, after APGA",
        ("gong2025",),
    ),
    "coordinates": (
        "a residual network that regresses coordinates, after prior-guided localisation",
        ("pang2023", "he2016"),
    ),
    "fine": (
        "U-Nets that look at a window around each landmark, after prior-guided localisation",
        ("pang2023", "ronneberger2015"),
    ),
    "global_cells": (
        "a residual network whose cells vote for each landmark's place by classification and displacement",
        ("noothout2020", "he2016"),
    ),
    "local_cells": (
        "a network of its own for each landmark, which looks at a window around the earlier place and votes likewise",
        ("noothout2020",),
    ),
}


def software() -> Reference:
    """autolmk itself, in the version that runs."""
    return Reference(
        "software",
        f"autolmk {autolmk.__version__}",
        {
            "author": "{The autolmk developers}",
            "title": "autolmk: landmark localisation in medical images that configures itself",
            "version": autolmk.__version__,
            "license": "Apache-2.0",
        },
    )
