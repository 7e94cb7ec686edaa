"""The page in a real browser (Debian's chromium and chromium-driver)."""

import json
import shutil
import time
from urllib.parse import urlsplit

import pytest

from pipelines.live.web.server import serve

webdriver = pytest.importorskip("selenium.webdriver")

TOKEN = "correct-horse-battery"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 30
PHONE = {"width": 390, "height": 844, "pixelRatio": 2}


def open_browser(*arguments, phone=False):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if phone:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def chromium():
    """One browser for the tests that need no other settings; evil.example is this machine."""
    opened = open_browser("--window-size=1440,900", "--host-resolver-rules=MAP evil.example 127.0.0.1")
    yield opened
    opened.quit()


@pytest.fixture
def browser(chromium):
    """The browser with one empty tab and no memory of another test."""
    yield chromium
    first, *others = chromium.window_handles
    for other in others:
        chromium.switch_to.window(other)
        chromium.close()
    chromium.switch_to.window(first)
    chromium.delete_all_cookies()
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)


@pytest.fixture
def server(staged):
    served = serve(staged.state, staged.classes, staged.inputs, port=0)
    staged.run()
    yield served
    staged.stop()
    served.stop()


def find(browser, selector):
    return browser.find_element("css selector", selector)


def text(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)


def until(holds, what, seconds=WAIT_S):
    """Wait until something holds and return it, with how long it took."""
    started = time.monotonic()
    while not (value := holds()):
        assert time.monotonic() - started < seconds, f"waited for: {what}"
        time.sleep(0.05)
    return value, time.monotonic() - started


def open_page(browser, url):
    browser.get(url)
    until(lambda: pictures(browser) > 0, "a picture")
    until(lambda: text(browser, "#health") == "Running", "figures")


def pictures(browser):
    return int(browser.execute_script("return document.documentElement.dataset.pictures") or 0)


def choose(browser, view):
    """Choose a view and wait for its pictures."""
    browser.execute_script(f"document.querySelector('#views input[value={view}]').click()")
    before = pictures(browser)
    until(lambda: pictures(browser) > before + 1, f"pictures of {view}")


def average(browser, panel):
    """Mean red, green, blue of what a panel's canvas shows."""
    return browser.execute_script(
        "const canvas = document.querySelector(`[data-panel=${arguments[0]}] canvas`);"
        "const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "const sum = [0, 0, 0];"
        "for (let at = 0; at < pixels.length; at += 4) for (let c = 0; c < 3; c += 1) sum[c] += pixels[at + c];"
        "return sum.map(value => value / pixels.length * 4);",
        panel,
    )


def fetched(browser):
    """Addresses that the browser asked for since the last look."""
    told = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]


def complaints(browser):
    """What the console holds, but for the refusal and the reading of pixels that the tests themselves ask for."""
    own = (" 401 ", "willReadFrequently")
    return [
        entry["message"] for entry in browser.get_log("browser") if not any(word in entry["message"] for word in own)
    ]


def test_pictures_move_numbers_change_and_nothing_comes_from_elsewhere(browser, server):
    open_page(browser, server.url)
    canvas = "return document.querySelector('[data-panel=rgb] canvas').toDataURL()"
    shown, first = browser.execute_script(canvas), pictures(browser)
    totals = text(browser, "#totals")
    until(lambda: pictures(browser) > first + 3, "more pictures")
    until(lambda: browser.execute_script(canvas) != shown, "another picture")
    until(lambda: text(browser, "#totals") != totals, "other numbers")
    assert text(browser, "#seen") == "1 × person"
    assert text(browser, "#tile-infer .reading b") == "11"
    assert text(browser, "#camera-rgb .pill") == text(browser, "#camera-thermal .pill") == "Live"
    assert text(browser, "#camera-rgb .name") == "rtsp://***@camera/rgb"
    until(lambda: "L" in (find(browser, "#tile-rate .first").get_attribute("d") or ""), "a chart")
    hosts = {urlsplit(url).netloc for url in fetched(browser) if not url.startswith(("data:", "about:"))}
    assert hosts == {urlsplit(server.url).netloc}
    assert complaints(browser) == []


def test_a_killed_camera_shows_within_two_seconds_and_so_does_its_return(browser, server, staged):
    open_page(browser, server.url)
    staged.modes["rgb"] = "down"
    _, took = until(lambda: text(browser, "#camera-rgb .pill") == "Down", "the camera shown as down")
    assert took < 2
    assert text(browser, "#health") == "RGB down" and text(browser, "#announcer") == "RGB camera: Down"
    assert find(browser, "[data-panel=rgb] .veil").is_displayed()
    assert not find(browser, "[data-panel=thermal] .veil").is_displayed()
    assert find(browser, "#camera-rgb .error").text == "connection refused"
    before = pictures(browser)
    until(lambda: pictures(browser) > before + 2, "pictures of the other camera")
    staged.modes["rgb"] = "up"
    _, took = until(lambda: text(browser, "#health") == "Running", "the camera shown as back")
    assert took < 2
    assert not find(browser, "[data-panel=rgb] .veil").is_displayed()


def test_views_opacity_and_answers_change_the_picture_and_stay_in_the_address(browser, server):
    open_page(browser, server.url)
    shown = {}
    for view in ("rgb", "thermal", "fused", "all"):
        choose(browser, view)
        panels = [name for name in ("fused", "rgb", "thermal") if find(browser, f"[data-panel={name}]").is_displayed()]
        assert panels == (["fused", "rgb", "thermal"] if view == "all" else [view])
        if view != "all":
            shown[view] = average(browser, view)
            assert find(browser, "#opacity").is_enabled() == (view == "fused")
    mixed = [(red + heat) / 2 for red, heat in zip(shown["rgb"], shown["thermal"], strict=True)]
    assert shown["fused"] == pytest.approx(mixed, abs=12)
    browser.execute_script(
        "const slider = document.querySelector('#opacity'); slider.value = 0; slider.dispatchEvent(new Event('input'))"
    )
    until(lambda: average(browser, "fused") == pytest.approx(shown["rgb"], abs=12), "RGB alone")
    assert text(browser, "#mixing output") == "0 %"
    browser.execute_script("document.querySelector('#answers').click()")
    until(lambda: browser.current_url.endswith("#view=all&opacity=0&answers=false"), "the choice in the address")
    browser.refresh()
    until(lambda: pictures(browser) > 0, "a picture")
    assert not find(browser, "#answers").is_selected() and text(browser, "#mixing output") == "0 %"
    assert complaints(browser) == []


def test_degrees_under_the_pointer_by_mouse_and_by_keys(browser, server):
    open_page(browser, f"{server.url}#view=thermal")
    picture = find(browser, "[data-panel=thermal] .picture")
    webdriver.ActionChains(browser).move_to_element(picture).perform()
    chip = "[data-panel=thermal] .chip"
    until(lambda: text(browser, chip) in ("19.9 °C", "20.0 °C", "20.1 °C"), "20 °C in the middle")
    corner = webdriver.ActionChains(browser)
    corner.move_to_element_with_offset(picture, -picture.size["width"] // 2 + 5, -picture.size["height"] // 2 + 5)
    corner.perform()
    until(lambda: text(browser, chip) == "no thermal here", "nothing in the corner")
    webdriver.ActionChains(browser).move_to_element(find(browser, "h1")).perform()
    until(lambda: not find(browser, chip).is_displayed(), "nothing off the picture")
    browser.execute_script("arguments[0].focus()", picture)
    right = webdriver.Keys.ARROW_RIGHT
    webdriver.ActionChains(browser).send_keys(*[right] * 5).perform()
    until(lambda: text(browser, "#announcer") in ("23.9 °C", "24.0 °C", "24.1 °C"), "24 °C said aloud")
    webdriver.ActionChains(browser).send_keys("1").perform()
    assert find(browser, "#views input[value=all]").is_selected()


def test_without_a_mouse_everything_has_a_name_and_is_reached(browser, server):
    open_page(browser, server.url)
    controls = browser.find_elements("css selector", "button, input, [tabindex='0']")
    assert len(controls) >= 10
    assert [control.get_attribute("outerHTML") for control in controls if not control.accessible_name] == []
    reached = []
    for _ in range(8):
        webdriver.ActionChains(browser).send_keys(webdriver.Keys.TAB).perform()
        reached.append(browser.execute_script("return document.activeElement.id || document.activeElement.className"))
        outline = "const s = getComputedStyle(document.activeElement); return s.outlineStyle"
        is_radio = browser.execute_script("return document.activeElement.type === 'radio'")
        assert is_radio or browser.execute_script(outline) != "none"
    assert reached.count("picture") == 3 and {"skip", "opacity", "answers", "full"} <= set(reached)


def test_the_token_is_asked_for_refused_and_accepted(browser, staged):
    served = serve(staged.state, staged.classes, staged.inputs, port=0, token=TOKEN)
    staged.run()
    try:
        browser.get(served.url)
        for token in ("wrong-token", TOKEN):
            find(browser, "#token").send_keys(token)
            find(browser, "button").click()
            if token != TOKEN:
                until(lambda: "This is not the token." in find(browser, "main").text, "the refusal")
        until(lambda: pictures(browser) > 0, "a picture")
        assert browser.current_url.partition("#")[0] == served.url
        assert TOKEN not in browser.execute_script("return document.cookie + location.href")
        (cookie,) = browser.get_cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and TOKEN not in cookie["value"]
        browser.refresh()
        until(lambda: pictures(browser) > 0, "a picture without the token")
        browser.delete_all_cookies()
        browser.get(served.login_url)
        until(lambda: pictures(browser) > 0, "a picture after the announced address")
        assert TOKEN not in browser.current_url
        assert complaints(browser) == []
    finally:
        staged.stop()
        served.stop()


def test_another_name_for_this_machine_is_refused(browser, server):
    browser.get(f"http://evil.example:{urlsplit(server.url).port}/")
    assert "not one of the server's" in find(browser, "body").text
    assert pictures(browser) == 0


def test_two_tabs_at_once(browser, server):
    open_page(browser, f"{server.url}#view=rgb")
    first = browser.current_window_handle
    browser.switch_to.new_window("window")
    open_page(browser, f"{server.url}#view=thermal")
    second = browser.current_window_handle
    assert server.viewers >= 1
    for window, view in ((first, "rgb"), (second, "thermal"), (first, "rgb")):
        browser.switch_to.window(window)
        before, answers = pictures(browser), text(browser, "#totals")
        until(lambda: pictures(browser) > before + 2, "pictures in this tab")  # noqa: B023
        until(lambda: text(browser, "#totals") != answers, "numbers in this tab")  # noqa: B023
        assert find(browser, f"[data-panel={view}]").is_displayed()
        assert complaints(browser) == []


def test_who_looks_away_costs_nothing(browser, server):
    open_page(browser, server.url)
    browser.get("about:blank")
    until(lambda: server.viewers == 0, "nobody looking")
    before = server.pictures
    time.sleep(0.3)
    assert server.pictures == before


def test_a_lost_server_is_said_and_found_again(browser, server, staged):
    open_page(browser, server.url)
    server.stop()
    _, took = until(lambda: find(browser, "#lost").is_displayed(), "the loss")
    assert took < 4 and text(browser, "#health") == "Offline"
    again = serve(staged.state, staged.classes, staged.inputs, port=urlsplit(server.url).port)
    try:
        until(lambda: not find(browser, "#lost").is_displayed(), "the return")
        before = pictures(browser)
        until(lambda: pictures(browser) > before + 2, "pictures again")
        assert text(browser, "#health") == "Running"
    finally:
        again.stop()


def test_many_rigs_are_chosen_from_a_list(browser, staged):
    other = type(staged)()
    other.modes = {"rgb": "down", "thermal": "up"}
    served = serve({"north": staged.state, "south": other.state}, staged.classes, staged.inputs, port=0)
    for pipeline in (staged, other):
        pipeline.run()
    try:
        open_page(browser, served.url)
        find(browser, "#rigs option[value=south]").click()
        until(lambda: text(browser, "#health") == "RGB down", "the other rig")
        before = pictures(browser)
        until(lambda: pictures(browser) > before + 1, "its pictures")
        assert "rig=south" in browser.current_url
        assert complaints(browser) == []
    finally:
        for pipeline in (staged, other):
            pipeline.stop()
        served.stop()


def test_one_camera_alone_shows_its_own_view_only(browser, server, staged):
    staged.modes.pop("rgb")
    browser.get(server.url)
    until(lambda: pictures(browser) > 0 and not find(browser, "[data-panel=fused]").is_displayed(), "thermal alone")
    labels = [label.text for label in browser.find_elements("css selector", "#views label") if label.is_displayed()]
    assert labels == ["Thermal"]
    assert not browser.find_elements("css selector", "#camera-rgb")


def test_on_a_phone_everything_fits_and_works(server):
    phone = open_browser(phone=True)
    try:
        open_page(phone, server.url)
        inside = phone.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inside == [PHONE["width"]] * 2
        for name in ("fused", "rgb", "thermal"):
            assert find(phone, f"[data-panel={name}]").is_displayed()
        boxes = {name: find(phone, f"[data-panel={name}] .picture").rect for name in ("fused", "rgb", "thermal")}
        assert boxes["fused"]["width"] > 330 and boxes["rgb"]["y"] == boxes["thermal"]["y"] > boxes["fused"]["y"]
        for control in phone.find_elements("css selector", "#views label, .plain, #opacity, .switch"):
            assert control.rect["height"] >= 24 and control.rect["x"] + control.rect["width"] <= PHONE["width"]
        choose(phone, "thermal")
        assert not find(phone, "[data-panel=rgb]").is_displayed()
        assert complaints(phone) == []
    finally:
        phone.quit()
