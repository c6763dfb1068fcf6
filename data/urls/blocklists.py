"""Named lists of links that are never fetched, by host name (with its subdomains) and by file extension.

    webtext       Wikipedia, as the paper says (section 2.1), and what holds no text: images, sound, video, archives
    openwebtext   what the OpenWebText reproduction drops, list by list: also GitHub, Twitter, Google, PDF, plain text

OpenAI's list of WebText's top domains includes google, archive, github and nytimes, but not youtube, imgur or
wikipedia. The original dropped only Wikipedia; youtube and imgur yielded no text. ``webtext`` saves those fetches.
"""

from __future__ import annotations

from dataclasses import dataclass

REDDIT_HOSTS = frozenset({"reddit.com", "redd.it"})
"""Reddit's own hosts, dropped under every profile: a link to them is not outbound."""

_IMAGES = ".png .jpg .jpeg .gif .gifv .svg .bmp .tiff .psd"
_SOUND_AND_VIDEO = ".mp4 .mp3 .ogg .ogv .webm .avi .mkv .mov .mpg .mpeg .wav .wma .wmv .3gp .mid .midi .swf .ram"
_ARCHIVES = ".zip .rar .7z .gz .bz2 .xz .tar .tgz .iso .dmg .apk .deb .pkg .jar .exe .bin"
_IMAGE_HOSTS = "imgur.com redditmedia.com reddituploads.com twimg.com sli.mg gyazo.com imgflip.com flic.kr"
_VIDEO_HOSTS = "youtube.com youtu.be vimeo.com twitch.tv streamable.com gfycat.com giphy.com soundcloud.com spotify.com"


@dataclass(frozen=True)
class BlockList:
    """``hosts`` match themselves and their subdomains; ``extensions`` (lower case, with the dot) end the URL's path."""

    hosts: frozenset[str]
    extensions: frozenset[str]


WEBTEXT = BlockList(
    hosts=frozenset(
        [
            *("wikipedia.org", "wikipedia.com", "wikimedia.org"),  # the last one serves Wikipedia's files
            *f"{_IMAGE_HOSTS} {_VIDEO_HOSTS}".split(),
            *("redgifs.com", "tenor.com", "dailymotion.com", "liveleak.com", "tinypic.com", "photobucket.com"),
        ]
    ),
    extensions=frozenset(
        f"{_IMAGES} {_SOUND_AND_VIDEO} {_ARCHIVES} .tif .webp .avif .ico .m4a .m4v .flac .flv".split()
    ),
)

_OPENWEBTEXT_HOSTS = """
    imgur.com redd.it instagram.com discord.gg gfycat.com giphy.com reddituploads.com redditmedia.com twimg.com sli.mg
    magaimg.net flickr.com imgflip.com youtube.com youtu.be youtubedoubler.com vimeo.com twitch.tv streamable.com
    bandcamp.com soundcloud.com reddit.com gyazo.com github.com xkcd.com twitter.com spotify.com itunes.apple.com
    facebook.com gunprime.com strawpoll.me voyagefusion.com rollingstone.com google.com timeanddate.com walmart.com
    roanoke.com spotrac.com wikipedia.org battleforthenet.com deviantart.com pornhub.com pinterest.com erome.com
    flic.kr ebay.com
"""
_OPENWEBTEXT_EXTENSIONS = """
    .png .jpg .jpeg .gif .gifv .svg .bmp .tiff .pdf .doc .docx .xls .xlsx .ppt .pptx .pps .mp4 .mp3 .ogg .ogv .webm
    .avi .mkv .mov .mpg .mpeg .wav .wma .wmv .3gp .mid .midi .swf .css .js .csv .dat .log .sql .xml .txt .py .apk
    .app .bin .deb .dmg .exe .iso .jar .pkg .ram .otf .ttf .psd .ai .zip .rar .7z .gz .bz2 .xz .tar .tgz
"""
OPENWEBTEXT = BlockList(
    hosts=frozenset(_OPENWEBTEXT_HOSTS.split()),
    extensions=frozenset(_OPENWEBTEXT_EXTENSIONS.split()),
)

PROFILES = {"webtext": WEBTEXT, "openwebtext": OPENWEBTEXT}
